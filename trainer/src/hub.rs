//! Files of the Hugging Face hub: `hf://owner/name`, or `hf://owner/name@revision`.
//!
//! They are kept where Python's software keeps them (`HF_HOME`), come from `HF_ENDPOINT`, and `HF_TOKEN` opens what is not public.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Repo, RepoType};

use crate::error::{Result, TrainerError};

const SCHEME: &str = "hf://";

/// A repository of the hub.
pub(crate) struct Hub {
    uri: String,
    repository: ApiRepo,
}

impl Hub {
    /// The repository that a URI names; none for a URI of another kind.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] when the URI is no `hf://owner/name`, or the environment's settings cannot be used.
    pub fn of(uri: &str) -> Result<Option<Self>> {
        let Some(place) = uri.strip_prefix(SCHEME) else { return Ok(None) };
        let (name, revision) = place.trim_end_matches('/').split_once('@').unwrap_or((place, "main"));
        let name = name.trim_end_matches('/');
        if name.split('/').count() != 2 || name.split('/').any(str::is_empty) || revision.is_empty() {
            return Err(TrainerError::Setting {
                found: format!("found {uri}"),
                expected: "hf://owner/name or hf://owner/name@revision".into(),
                advice: "Name the repository as its page on the hub does".into(),
            });
        }
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let builder = ApiBuilder::from_env().with_progress(false).with_retries(3);
        let builder = if token.is_some() { builder.with_token(token) } else { builder };
        let api = builder.build().map_err(|error| failed(uri, "", &error))?;
        let repository = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        Ok(Some(Self { uri: uri.to_owned(), repository: api.repo(repository) }))
    }

    /// A file, which is downloaded unless it is here already; none when the repository has no such file.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] when the hub cannot be reached or refuses.
    pub fn file(&self, name: &str) -> Result<Option<PathBuf>> {
        match self.repository.get(name) {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.to_string().contains("status code 404") => Ok(None),
            Err(error) => Err(failed(&self.uri, name, &error)),
        }
    }
}

fn failed(uri: &str, file: &str, error: &dyn std::fmt::Display) -> TrainerError {
    TrainerError::Setting {
        found: format!("{uri} {file} cannot be had: {error}"),
        expected: "a repository of the hub that can be reached".into(),
        advice: "Look at HF_ENDPOINT and HF_TOKEN, or download it where there is a network and name the folder".into(),
    }
}
