//! Stores that do not have put-if-absent are told from those that do, whatever becomes of the answers.

use std::fmt;

use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
};

use super::*;

/// A store that does with "only if absent" what some servers do.
#[derive(Clone, Debug)]
struct Careless {
    inner: FaultyStore,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Overwrites,
    NotImplemented,
    /// Keeps the first object and confirms the second.
    SaysYes,
}

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Careless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        match self.how {
            How::Overwrites => self.inner.put_opts(path, payload, PutOptions::default()).await,
            How::NotImplemented => {
                let (operation, implementer) = ("conditional put".into(), "Careless".into());
                Err(object_store::Error::NotImplemented { operation, implementer })
            }
            How::SaysYes => match self.inner.put_opts(path, payload, options).await {
                Err(object_store::Error::AlreadyExists { .. }) => {
                    Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
                }
                other => other,
            },
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn stores_that_have_it_pass_and_keep_nothing_of_the_probe() {
    let (store, folder) = (FaultyStore::new(), tempfile::tempdir().unwrap());
    for storage in [in_memory(&store), on_disk(folder.path())] {
        storage.check_put_if_absent().unwrap();
        assert_eq!(storage.list("").unwrap(), Vec::<String>::new());
    }
}

#[test]
fn stores_that_do_not_are_refused_with_what_they_did() {
    let cases = [
        (How::Overwrites, "replaced the first"),
        (How::NotImplemented, "conditional put not yet implemented"),
        (How::SaysYes, "confirmed a second write"),
    ];
    for (how, words) in cases {
        let mut place = FaultyStore::new().location();
        place.store = Arc::new(Careless { inner: FaultyStore::new(), how });
        let storage = Storage::at(place).unwrap();
        let error = storage.check_put_if_absent().unwrap_err();
        assert!(matches!(error, TrainerError::NoPutIfAbsent { .. }), "{how:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("s3://bucket/run") && text.contains("Use a path"), "{text}");
        assert_eq!(storage.list("").unwrap(), Vec::<String>::new());
    }
}

#[test]
fn lost_and_doubled_answers_do_not_make_a_store_look_worse_or_better_than_it_is() {
    for seed in 0..40 {
        for kind in ["lost", "twice"] {
            let sound = disturbed(FaultyStore::new().location(), &format!("{kind}:{seed}"));
            match sound.check_put_if_absent() {
                Ok(()) => {}
                // Three lost answers in a row: nothing is known.
                Err(error) => assert!(matches!(error, TrainerError::Store(_)), "{kind}:{seed}: {error}"),
            }
            let mut place = FaultyStore::new().location();
            place.store = Arc::new(Careless { inner: FaultyStore::new(), how: How::Overwrites });
            let error = disturbed(place, &format!("{kind}:{seed}")).check_put_if_absent().unwrap_err();
            assert!(matches!(error, TrainerError::NoPutIfAbsent { .. }), "{kind}:{seed}: {error}");
        }
    }
}

#[test]
fn a_store_that_is_down_is_not_called_incapable() {
    let store = FaultyStore::new();
    for changes in 0..2 {
        store.die_after(changes);
        let error = in_memory(&store).check_put_if_absent().unwrap_err();
        assert!(matches!(error, TrainerError::Store(_)), "{error}");
    }
}
