//! Secrets must not stand in a config: what looks like one, and how it is kept out of messages.
//!
//! Credentials come from the environment or from the machine's role; a config is copied into checkpoints, logs and
//! reports.

use crate::problem::Problems;
use crate::tree::{Node, Value, join};

/// Query parameters that carry credentials in the URIs of S3, Azure, Google and web servers (compared in lower case).
const SECRET_PARAMETERS: &[&str] = &[
    "access_key",
    "access_key_id",
    "access_token",
    "account_key",
    "accountkey",
    "api_key",
    "apikey",
    "awsaccesskeyid",
    "aws_access_key_id",
    "aws_secret_access_key",
    "credential",
    "key",
    "password",
    "secret",
    "secret_access_key",
    "secret_key",
    "session_token",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-goog-credential",
    "x-goog-signature",
];

/// Parts of the names of environment variables that carry credentials.
const SECRET_VARIABLES: &[&str] =
    &["SECRET", "TOKEN", "PASSWORD", "PASSWD", "ACCESS_KEY", "API_KEY", "ACCOUNT_KEY", "AccountKey", "SAS_KEY"];

/// What takes the place of a secret in a message.
const HIDDEN: &str = "***";

/// A part of a text that must not be shown.
struct Secret {
    start: usize,
    end: usize,
    what: &'static str,
}

/// `text` with everything that looks like a secret replaced by `***`.
pub(crate) fn redact(text: &str) -> String {
    let mut shown = String::new();
    let mut from = 0;
    for secret in secrets(text) {
        if secret.start >= from {
            shown.push_str(&text[from..secret.start]);
            shown.push_str(HIDDEN);
            from = secret.end;
        }
    }
    shown.push_str(&text[from..]);
    shown
}

/// Adds a problem for every text below `node` that holds a secret.
pub(crate) fn refuse_secrets(node: &Node, path: &str, problems: &mut Problems) {
    match &node.value {
        Value::Scalar(scalar) => {
            if let Some(secret) = secrets(&scalar.text).first() {
                let message = format!(
                    "found {} in `{}`; expected no secret, because configs are copied into checkpoints, \
                     logs and reports",
                    secret.what,
                    crate::problem::printable(&redact(&scalar.text), 80)
                );
                let advice = "take it out here and revoke it if this file was shared; give credentials by environment \
                              variables or by the machine's role";
                problems.add(&node.origin, path, message, Some(advice.to_owned()));
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_secrets(item, &format!("{path}[{index}]"), problems);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                refuse_secrets(&entry.value, &join(path, &entry.key), problems);
            }
        }
    }
}

/// Everything in `text` that looks like a secret, in order.
fn secrets(text: &str) -> Vec<Secret> {
    let mut found = Vec::new();
    user_passwords(text, &mut found);
    query_parameters(text, &mut found);
    assignments(text, &mut found);
    known_shapes(text, &mut found);
    found.sort_by_key(|secret| secret.start);
    found
}

/// `scheme://user:password@host`.
fn user_passwords(text: &str, found: &mut Vec<Secret>) {
    for (position, _) in text.match_indices("://") {
        let start = position + 3;
        let end = text[start..].find(['/', '?', '#', ' ', '"', '\'', '`']).map_or(text.len(), |length| start + length);
        if let Some(at) = text[start..end].rfind('@')
            && let Some(colon) = text[start..start + at].find(':')
            && colon + 1 < at
        {
            found.push(Secret { start: start + colon + 1, end: start + at, what: "a password" });
        }
    }
}

/// `?sig=...&X-Amz-Signature=...`.
fn query_parameters(text: &str, found: &mut Vec<Secret>) {
    for (position, mark) in text.match_indices(['?', '&']) {
        let name_start = position + mark.len();
        let rest = &text[name_start..];
        let Some(equals) = rest.find('=') else { continue };
        if !SECRET_PARAMETERS.contains(&rest[..equals].to_ascii_lowercase().as_str()) {
            continue;
        }
        let start = name_start + equals + 1;
        let end = text[start..].find(['&', '#', ' ', '"', '\'', '`']).map_or(text.len(), |length| start + length);
        if end > start {
            found.push(Secret { start, end, what: "an access key in a query parameter" });
        }
    }
}

/// `export SOME_TOKEN=value`, but not `export SOME_TOKEN=$(cat file)`.
fn assignments(text: &str, found: &mut Vec<Secret>) {
    for (position, _) in text.match_indices('=') {
        let name_start = text[..position]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .map_or(0, |before| before + text[before..].chars().next().map_or(1, char::len_utf8));
        let name = &text[name_start..position];
        if !SECRET_VARIABLES.iter().any(|part| name.contains(part)) {
            continue;
        }
        let mut start = position + 1;
        if text[start..].starts_with(['"', '\'']) {
            start += 1;
        }
        let end = text[start..].find([' ', '\n', ';', '"', '\'', '`']).map_or(text.len(), |length| start + length);
        if end > start && !text[start..].starts_with('$') {
            found.push(Secret { start, end, what: "a secret" });
        }
    }
}

/// Access keys that are known by their shape.
fn known_shapes(text: &str, found: &mut Vec<Secret>) {
    for (prefix, shortest, what) in
        [("AKIA", 20, "an AWS access key"), ("ASIA", 20, "an AWS access key"), ("hf_", 30, "a Hugging Face token")]
    {
        for (start, _) in text.match_indices(prefix) {
            let boundary = !text[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
            let length = text[start + prefix.len()..]
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(text.len() - start - prefix.len())
                + prefix.len();
            if boundary && length >= shortest {
                found.push(Secret { start, end: start + length, what });
            }
        }
    }
    if let Some(start) = text.find("-----BEGIN") {
        found.push(Secret { start, end: text.len(), what: "a private key" });
    }
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn secrets_are_hidden() {
        assert_eq!(redact("s3://me:pass@host/x"), "s3://me:***@host/x");
        assert_eq!(redact("https://h/x?a=1&sig=abc&b=2"), "https://h/x?a=1&sig=***&b=2");
        assert_eq!(redact("https://h/x?X-Amz-Signature=0f0f"), "https://h/x?X-Amz-Signature=***");
        assert_eq!(redact("export AWS_SECRET_ACCESS_KEY=abc/def ; ls"), "export AWS_SECRET_ACCESS_KEY=*** ; ls");
        assert_eq!(redact("AKIAABCDEFGHIJKLMNOP"), "***");
    }

    #[test]
    fn ordinary_texts_are_left_alone() {
        for text in [
            "s3://bucket/runs/vitg",
            "https://host:9000/path",
            "s3://bucket@host/x",
            "export HF_TOKEN=$(cat token)",
            "Question: {} Short answer:",
            "é=ü token = hf_short",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
