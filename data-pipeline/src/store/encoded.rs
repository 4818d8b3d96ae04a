//! A store whose client puts keys into addresses as they are: they are percent-encoded for it.

use std::fmt;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::{Path, PathPart};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

/// Characters that end or change the path of an address.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b'%')
    .add(b'#')
    .add(b'?')
    .add(b'\\')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'[')
    .add(b']')
    .add(b'^')
    .add(b'|');

/// Google's store: its client encodes keys in the queries of listings and not in the addresses of objects.
#[derive(Debug)]
pub(super) struct EncodedKeys<T>(pub(super) T);

impl<T> fmt::Display for EncodedKeys<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncodedKeys")
    }
}

/// A key as it stands in an address.
pub(super) fn encoded(path: &Path) -> Path {
    path.parts().fold(Path::default(), |made, part| {
        let text = percent_encode(part.as_ref().as_bytes(), RESERVED).to_string();
        let part = PathPart::parse(&text).unwrap_or_else(|_| PathPart::from(text.as_str()));
        made.join(part)
    })
}

#[async_trait::async_trait]
impl<T: ObjectStore> ObjectStore for EncodedKeys<T> {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(&encoded(path), payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(&encoded(path), options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(&encoded(path), options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths.map(|path| path.map(|path| encoded(&path))).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, &encoded(to), options).await
    }
}

#[async_trait::async_trait]
impl<T: MultipartStore> MultipartStore for EncodedKeys<T> {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.0.create_multipart(&encoded(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
        self.0.put_part(&encoded(path), id, part, data).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.0.complete_multipart(&encoded(path), id, parts).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.0.abort_multipart(&encoded(path), id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_what_an_address_may_hold() {
        let encoded = |key: &str| encoded(&Path::parse(key).unwrap()).to_string();
        assert_eq!(encoded("a/part#2/100%/x?y.parquet"), "a/part%232/100%25/x%3Fy.parquet");
        assert_eq!(encoded("été 1.tar"), "%C3%A9t%C3%A9 1.tar");
    }
}
