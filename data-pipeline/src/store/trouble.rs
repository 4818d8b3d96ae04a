//! What is wrong with a store, told from its error: who asks, what is asked for, or the store itself.

use std::io::ErrorKind;

use object_store::Error as StoreError;

/// A kind of trouble that one remedy heals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The credentials were good once.
    ExpiredCredentials,
    /// The clock of this machine is too far from the store's for a signature to count.
    Clock,
    /// The credentials are missing, wrong, or lack the right.
    Refused,
    /// The store answers and has no such bucket, folder or object.
    Missing,
    /// There is no space left.
    Full,
    /// The file system does not let this user write or read.
    Rights,
    /// The store does not answer, or only with errors of its own.
    Silent,
    /// Something else; the store's own words say more.
    Other,
}

/// What stores say of credentials that have run out: S3 and STS, Google, Azure.
const EXPIRED: [&str; 7] = [
    "expiredtoken",
    "token has expired",
    "tokenrefreshrequired",
    "expired or revoked",
    "invalid_grant",
    "not valid in the specified time frame",
    "credentials have expired",
];
/// What they say of a clock that is off.
const CLOCK: [&str; 3] = ["requesttimetooskewed", "signature not yet current", "request date header too old"];
/// What they say of credentials that are wrong, also with a status that says nothing of the kind.
const REFUSED: [&str; 7] = [
    "accessdenied",
    "invalidaccesskeyid",
    "signaturedoesnotmatch",
    "invalidtoken",
    "authenticationfailed",
    "invalidauthenticationinfo",
    "credential",
];
/// What a client says of a store that gives no answer.
const SILENT: [&str; 4] = ["error sending request", "retries, max_retries", "operation timed out", "status code: 5"];

impl Trouble {
    /// What an error tells of.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let said = causes(error).map(ToString::to_string).collect::<Vec<_>>().join("\n").to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if says(&EXPIRED) {
            return Self::ExpiredCredentials;
        }
        if says(&CLOCK) {
            return Self::Clock;
        }
        match causes(error).find_map(store_error) {
            Some(StoreError::NotFound { .. }) => return Self::Missing,
            Some(StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }) => return Self::Refused,
            _ => {}
        }
        match causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => return Self::Full,
            Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory) => {
                return Self::Rights;
            }
            Some(ErrorKind::NotFound) => return Self::Missing,
            _ => {}
        }
        match () {
            () if says(&["no space left", "os error 28"]) => Self::Full,
            () if says(&["permission denied", "read-only file system"]) => Self::Rights,
            // Where no variable holds credentials, the machine's own service for them is asked.
            () if says(&["169.254.169.254", "metadata.google.internal"]) => Self::Refused,
            () if says(&SILENT) => Self::Silent,
            () if says(&REFUSED) => Self::Refused,
            () => Self::Other,
        }
    }

    /// What was found, in a few words.
    pub fn found(self) -> &'static str {
        match self {
            Self::ExpiredCredentials => "credentials that have expired",
            Self::Clock => "a clock that is too far from the store's",
            Self::Refused => "credentials that the store refuses",
            Self::Missing => "nothing there",
            Self::Full => "no space left",
            Self::Rights => "no rights on this path",
            Self::Silent => "a store that does not answer",
            Self::Other => "an error of the store",
        }
    }

    /// What a person can do.
    pub fn fix(self) -> &'static str {
        match self {
            Self::ExpiredCredentials => {
                "renew the credentials (`aws sso login`, a new AWS_SESSION_TOKEN, `gcloud auth application-default \
                     login`, \
                 a new SAS) and see that they outlive the job"
            }
            Self::Clock => "set this machine's clock (`chronyc makestep`, `timedatectl set-ntp true`)",
            Self::Refused => {
                "set the store's variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                     GOOGLE_APPLICATION_CREDENTIALS, \
                 AZURE_STORAGE_ACCOUNT_KEY), and see that they may list, read and, under run.output, write and delete"
            }
            Self::Missing => "check the URI in the config, and that bucket and folder exist",
            Self::Full => "free some space, raise the quota, or set run.output to another disk",
            Self::Rights => "set the rights of the folder (`chmod`, `chown`), or name one that this user may write to",
            Self::Silent => {
                "check the store's address in the environment (AWS_ENDPOINT_URL), proxies, the network from this \
                     machine, \
                 and the store's own log"
            }
            Self::Other => "see the store's own words, and its log",
        }
    }
}

/// An error and what caused it, one after the other.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |cause| cause.source())
}

/// The store's error in a cause, boxed or not.
fn store_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    let boxed = || cause.downcast_ref::<Box<StoreError>>().map(AsRef::as_ref);
    cause.downcast_ref::<StoreError>().or_else(boxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;

    fn of(source: StoreError) -> Trouble {
        Trouble::of(&Location::parse("s3://bucket/run").unwrap().error("read", source))
    }

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Generic { store: "S3", source: source.into() }
    }

    #[test]
    fn expired_credentials_are_told_from_missing_objects_and_from_wrong_ones() {
        let path = || "a".to_owned();
        let expired = "Server returned non-2xx status code: 400 Bad Request: <Error><Code>ExpiredToken</Code></Error>";
        assert_eq!(of(generic(expired)), Trouble::ExpiredCredentials);
        let denied = StoreError::PermissionDenied { path: path(), source: "The provided token has expired.".into() };
        assert_eq!(of(denied), Trouble::ExpiredCredentials);
        let denied = StoreError::PermissionDenied { path: path(), source: "<Code>AccessDenied</Code>".into() };
        assert_eq!(of(denied), Trouble::Refused);
        assert_eq!(of(StoreError::NotFound { path: path(), source: "NoSuchKey".into() }), Trouble::Missing);
        assert_eq!(of(generic("<Code>RequestTimeTooSkewed</Code>")), Trouble::Clock);
    }

    #[test]
    fn disks_and_silence_have_their_own_remedies() {
        for (errno, trouble) in
            [(28, Trouble::Full), (122, Trouble::Full), (13, Trouble::Rights), (30, Trouble::Rights)]
        {
            assert_eq!(of(generic(std::io::Error::from_raw_os_error(errno))), trouble, "os error {errno}");
        }
        assert_eq!(of(generic("error sending request for url (http://127.0.0.1:9/)")), Trouble::Silent);
        assert_eq!(of(generic("Server returned non-2xx status code: 503 Slow Down")), Trouble::Silent);
        assert_eq!(of(generic("what is this")), Trouble::Other);
    }
}
