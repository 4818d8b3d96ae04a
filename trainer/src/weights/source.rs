//! Weights as others have written them: one safetensors file, several with an index, or a PyTorch checkpoint; on a path or
//! in an object store. Only headers are read when it is opened; a tensor is read when it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::Instant;

use data_pipeline::store::Location;
use safetensors::Dtype;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::header::{self, PREFIX};
use super::pickle;
use crate::error::{Result, TrainerError};
use crate::hub::Hub;
use crate::storage::Storage;

/// The index of several safetensors files, and the file where there is one.
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const PICKLED: &str = "pytorch_model.bin";
/// A pickle of thousands of tensors has hundreds of kilobytes; every byte may cost a hundred of memory.
const LARGEST_PICKLE: u64 = 8 << 20;

/// A tensor of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// The file that it lies in.
    file: usize,
    /// Its bytes there.
    range: Range<u64>,
}

/// How far a hash has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// The SHA-256 of everything.
    Whole(String),
    /// So many bytes were hashed when time was up.
    Part(u64),
}

/// Opened weights.
#[derive(Debug)]
pub struct Source {
    /// Where they lie.
    pub uri: String,
    /// Names of the files.
    pub files: Vec<String>,
    /// The tensors by their names there.
    pub tensors: BTreeMap<String, Found>,
    /// `config.json` beside them.
    pub config: Option<Value>,
    storage: Storage,
}

impl Source {
    /// Opens a `.safetensors` file, a PyTorch checkpoint (`.pth`, `.pt`, `.bin`), a folder as Hugging Face lays it out, or a
    /// repository of its hub (`hf://owner/name`).
    ///
    /// # Errors
    /// [`TrainerError::WeightsFile`] when there is none, or a file is damaged or names anything but tensors;
    /// [`TrainerError::Store`].
    pub fn open(uri: &str) -> Result<Self> {
        if let Some(hub) = Hub::of(uri)? {
            let folder = download(&hub, uri)?;
            return Ok(Self { uri: uri.to_owned(), ..Self::open(&folder)? });
        }
        let uri = uri.trim_end_matches('/');
        let is_file = [".safetensors", ".pth", ".pt", ".bin"].iter().any(|end| uri.ends_with(end));
        let (folder, file) = match uri.rsplit_once('/') {
            Some((folder, name)) if is_file => (folder, Some(name)),
            None if is_file => (".", Some(uri)),
            _ => (uri, None),
        };
        let folder = if folder.is_empty() { "/" } else { folder };
        let storage = Storage::at(Location::parse(folder)?)?;
        let mut source =
            Self { uri: uri.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), config: None, storage };
        if let Some(config) = source.storage.read("config.json")? {
            let parsed = serde_json::from_slice(&config);
            source.config = Some(parsed.map_err(|error| source.bad("config.json", &error.to_string()))?);
        }
        match file {
            Some(name) => source.add(name)?,
            None => source.add_folder()?,
        }
        Ok(source)
    }

    /// Opens what a config names, and checks its SHA-256 where the config states one; gives that back, too.
    ///
    /// # Errors
    /// [`TrainerError::OtherContent`]; as [`Source::open`].
    pub fn open_checked(weights: &configs::Weights) -> Result<(Self, String)> {
        let source = Self::open(weights.uri.as_str())?;
        let found = source.sha256()?;
        match weights.sha256.as_ref().map(configs::Sha256::as_str) {
            Some(expected) if expected != found => Err(TrainerError::OtherContent {
                uri: weights.uri.as_str().to_owned(),
                found,
                expected: expected.to_owned(),
            }),
            _ => Ok((source, found)),
        }
    }

    fn bad(&self, file: &str, reason: &str) -> TrainerError {
        let uri = if self.uri.ends_with(file) { self.uri.clone() } else { format!("{}/{file}", self.uri) };
        TrainerError::WeightsFile { uri, reason: reason.to_owned() }
    }

    fn add_folder(&mut self) -> Result<()> {
        if let Some(index) = self.storage.read(INDEX)? {
            return self.add_shards(&index);
        }
        for name in [SINGLE, PICKLED] {
            if self.storage.size(name)?.is_some() {
                return self.add(name);
            }
        }
        Err(self.bad("", &format!("there is neither {INDEX} nor {SINGLE} nor {PICKLED} in it")))
    }

    /// Every tensor must lie in the file that the index names, and every file must be there.
    fn add_shards(&mut self, index: &[u8]) -> Result<()> {
        let index: Value = serde_json::from_slice(index).map_err(|error| self.bad(INDEX, &error.to_string()))?;
        let map = index["weight_map"].as_object().ok_or_else(|| self.bad(INDEX, "it has no `weight_map`"))?;
        let shards: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        for shard in shards {
            if shard.contains('/') {
                return Err(self.bad(INDEX, &format!("it names the file {shard}, which is no name inside its folder")));
            }
            self.add(shard)?;
        }
        for (name, shard) in map {
            let is_there =
                self.tensors.get(name).is_some_and(|found| Some(self.files[found.file].as_str()) == shard.as_str());
            if !is_there {
                return Err(self.bad(INDEX, &format!("it says that `{name}` lies in {shard}, and it does not")));
            }
        }
        match self.tensors.keys().find(|name| !map.contains_key(*name)) {
            Some(name) => Err(self.bad(INDEX, &format!("it does not name `{name}`, which is in one of its files"))),
            None => Ok(()),
        }
    }

    fn add(&mut self, file: &str) -> Result<()> {
        let size = self.storage.size(file)?.ok_or_else(|| self.bad(file, "there is no such file"))?;
        let number = self.files.len();
        let found = match file.ends_with(".safetensors") {
            true => self.safetensors(file, size, number)?,
            false => self.checkpoint(file, size, number)?,
        };
        self.files.push(file.to_owned());
        for (name, tensor) in found {
            if self.tensors.contains_key(&name) {
                return Err(self.bad(file, &format!("`{name}` is in another file, too")));
            }
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }

    fn safetensors(&self, file: &str, size: u64, number: usize) -> Result<BTreeMap<String, Found>> {
        let bad = |reason: String| self.bad(file, &reason);
        if size < PREFIX {
            return Err(bad(format!("it has {size} bytes, fewer than a header's length takes")));
        }
        let prefix = self.storage.read_range(file, 0..PREFIX)?;
        let prefix = <[u8; 8]>::try_from(prefix.as_slice()).map_err(|error| bad(error.to_string()))?;
        let length = header::length(prefix, size).map_err(bad)?;
        let header = self.storage.read_range(file, PREFIX..PREFIX + length)?;
        let entries = header::entries(&header, size).map_err(bad)?;
        let found = |(name, entry): (String, header::Entry)| {
            (name, Found { dtype: entry.dtype, shape: entry.shape, file: number, range: entry.range })
        };
        Ok(entries.into_iter().map(found).collect())
    }

    fn checkpoint(&self, file: &str, size: u64, number: usize) -> Result<BTreeMap<String, Found>> {
        let bad = |reason: String| self.bad(file, &reason);
        let reader = Reader { storage: &self.storage, file, size, at: 0, part: (0..0, Vec::new()) };
        let mut archive = zip::ZipArchive::new(reader).map_err(|error| {
            bad(format!(
                "it is no zip archive ({error}), as torch.save writes since 1.6; load it in PyTorch and save it again"
            ))
        })?;
        let program = archive.file_names().find(|name| name.ends_with("/data.pkl") || *name == "data.pkl");
        let program = program.ok_or_else(|| bad("it has no data.pkl inside".into()))?.to_owned();
        let root = program.strip_suffix("data.pkl").unwrap_or_default().to_owned();
        let mut pickled = Vec::new();
        let entry = archive.by_name(&program).map_err(|error| bad(error.to_string()))?;
        entry.take(LARGEST_PICKLE + 1).read_to_end(&mut pickled).map_err(|error| bad(error.to_string()))?;
        if pickled.len() as u64 > LARGEST_PICKLE {
            return Err(bad(format!("its data.pkl has more than {LARGEST_PICKLE} bytes")));
        }
        let mut found = BTreeMap::new();
        for (name, record) in pickle::tensors(&pickled).map_err(bad)? {
            if !record.is_contiguous {
                return Err(bad(format!("`{name}` is a view with strides; save `{name}.contiguous()` instead")));
            }
            let bytes = header::bytes_of(record.dtype, &record.shape);
            let skipped = header::bytes_of(record.dtype, &[1]).and_then(|one| one.checked_mul(record.offset));
            let storage = archive
                .by_name(&format!("{root}data/{}", record.key))
                .map_err(|error| bad(format!("the numbers of `{name}` are missing: {error}")))?;
            if storage.compression() != zip::CompressionMethod::Stored {
                return Err(bad(format!("the numbers of `{name}` are compressed, which torch.save never does")));
            }
            let start = storage.data_start();
            let range = skipped.zip(bytes).and_then(|(skipped, bytes)| {
                let from = skipped.checked_add(start)?;
                let to = from.checked_add(bytes)?;
                (to <= start.checked_add(storage.size())? && to <= size).then_some(from..to)
            });
            let range = range.ok_or_else(|| {
                bad(format!("`{name}`, {:?} {:?}, is larger than its storage", record.dtype, record.shape))
            })?;
            found.insert(name, Found { dtype: record.dtype, shape: record.shape, file: number, range });
        }
        Ok(found)
    }

    /// Bytes of all files.
    ///
    /// # Errors
    /// [`TrainerError::Store`].
    pub fn bytes(&self) -> Result<u64> {
        self.files.iter().map(|file| Ok(self.storage.size(file)?.unwrap_or(0))).sum()
    }

    /// SHA-256 of the file; of several, of all their bytes one after the other. Read in pieces.
    ///
    /// # Errors
    /// [`TrainerError::Store`].
    pub fn sha256(&self) -> Result<String> {
        Ok(self.hash(&|| false)?.unwrap_or_else(|_| unreachable!("a hash that nothing stops is whole")))
    }

    /// The same, for as long as there is time; at least one piece.
    ///
    /// # Errors
    /// [`TrainerError::Store`].
    pub(crate) fn sha256_until(&self, until: Instant) -> Result<Hashed> {
        Ok(self.hash(&|| Instant::now() >= until)?.map_or_else(Hashed::Part, Hashed::Whole))
    }

    /// The hash, or how many bytes were hashed when it was to stop.
    fn hash(&self, stop: &dyn Fn() -> bool) -> Result<std::result::Result<String, u64>> {
        let (mut hash, mut done) = (Sha256::new(), 0);
        for file in &self.files {
            let size = self.storage.size(file)?.unwrap_or(0);
            for from in (0..size).step_by(PIECE as usize) {
                if done > 0 && stop() {
                    return Ok(Err(done));
                }
                let piece = self.storage.read_range(file, from..(from + PIECE).min(size))?;
                done += piece.len() as u64;
                hash.update(piece);
            }
        }
        Ok(Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// A tensor's bytes.
    ///
    /// # Errors
    /// [`TrainerError::Store`]; [`TrainerError::MissingWeight`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let found = self.tensors.get(name).ok_or_else(|| TrainerError::MissingWeight { name: name.to_owned() })?;
        self.storage.read_range(&self.files[found.file], found.range.clone())
    }
}

/// Brings the weights of a repository here; says in which folder they are.
fn download(hub: &Hub, uri: &str) -> Result<String> {
    let bad = |reason: String| TrainerError::WeightsFile { uri: uri.to_owned(), reason };
    hub.file("config.json")?;
    let index = hub.file(INDEX)?;
    if let Some(index) = &index {
        let text = std::fs::read(index).map_err(|error| bad(format!("{INDEX} cannot be read: {error}")))?;
        let parsed: Value = serde_json::from_slice(&text).map_err(|error| bad(format!("{INDEX}: {error}")))?;
        let shards =
            parsed["weight_map"].as_object().into_iter().flat_map(|map| map.values().filter_map(Value::as_str));
        for shard in shards.collect::<BTreeSet<_>>() {
            hub.file(shard)?.ok_or_else(|| bad(format!("it names {shard} and has no such file")))?;
        }
    }
    let single = || Ok::<_, TrainerError>(hub.file(SINGLE)?.or(hub.file(PICKLED)?));
    let file = if index.is_some() { index } else { single()? };
    let file = file.ok_or_else(|| bad(format!("there is neither {INDEX} nor {SINGLE} nor {PICKLED} in it")))?;
    Ok(file.parent().unwrap_or(&file).display().to_string())
}

/// Bytes that are hashed at once.
const PIECE: u64 = 64 << 20;

/// An object as a file that can be read anywhere, for what wants one.
struct Reader<'s> {
    storage: &'s Storage,
    file: &'s str,
    size: u64,
    at: u64,
    /// The last part that was fetched.
    part: (Range<u64>, Vec<u8>),
}

/// Bytes that are fetched at once.
const PART: u64 = 1 << 16;

impl Read for Reader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || to.is_empty() {
            return Ok(0);
        }
        if !self.part.0.contains(&self.at) {
            let range = self.at..(self.at + PART).min(self.size);
            let bytes = self.storage.read_range(self.file, range.clone()).map_err(io::Error::other)?;
            self.part = (range, bytes);
        }
        let rest = &self.part.1[(self.at - self.part.0.start) as usize..];
        let count = rest.len().min(to.len());
        to[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => i128::from(place),
            SeekFrom::End(offset) => i128::from(self.size) + i128::from(offset),
            SeekFrom::Current(offset) => i128::from(self.at) + i128::from(offset),
        };
        self.at = u64::try_from(place).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
