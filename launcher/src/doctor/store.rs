//! Stores: credentials, rights, conditional writes, clock, latency and throughput, each step within its own time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use configs::Source;
use data_pipeline::store::{Location, Trouble};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::check::Check;
use super::context::Context;

/// What the other checks call the output's store.
pub const OUTPUT: &str = "store.output";
/// Time for one exchange with a store. A good one answers within 0.1 s.
const EXCHANGE: Duration = Duration::from_secs(8);
/// Reads of which the median is the latency.
const READS: usize = 9;
/// Bytes of a small read, and of one for throughput.
const SMALL: u64 = 64;
const LARGE: u64 = 4 << 20;
/// Latency in seconds and MB/s that are worth a warning.
const LATE: f64 = 0.5;
const SLOW: f64 = 10.0;
/// Seconds that clocks may be apart without a word, and without a failure: signatures count for 5 to 15 minutes.
const CLOCK: [f64; 2] = [10.0, 300.0];
/// Objects of a source that are listed.
const LISTED: usize = 100;

/// An exchange that failed.
#[derive(Debug)]
struct Failed {
    action: &'static str,
    trouble: Trouble,
    said: String,
}

/// What a store showed.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// Seconds, the median of small reads.
    latency: f64,
    /// MB/s, where an object was large enough to show it.
    read: Option<f64>,
    /// MB/s, where anything was written.
    written: Option<f64>,
    /// Seconds that this machine's clock is ahead of the store's, beyond what the exchange took.
    clock: Option<f64>,
}

/// Writes, reads, lists and deletes below the output.
pub fn output(context: &Context) -> Vec<Check> {
    let uri = context.run.run.output.as_str();
    let expected = "a store that can be written, read and listed, and that writes an object only if it is absent";
    let place = match Location::parse(uri) {
        Ok(place) => place.child(&format!("doctor-{}-{}", std::process::id(), nanoseconds())),
        Err(error) => {
            return broken(context, OUTPUT, error.to_string(), expected, "check run.output, and the store's variables");
        }
    };
    let folder = crate::source::local_folder(uri);
    let was_there = folder.as_ref().is_some_and(|folder| folder.exists());
    let shown = wait(write_and_read(&place));
    if let Some(folder) = folder {
        // What an object store does not have. The output itself goes only where it was made here.
        let _was_not_made = std::fs::remove_dir(folder.join(place.path.filename().unwrap_or("doctor")));
        if !was_there {
            let _holds_something = std::fs::remove_dir(&folder);
        }
    }
    match shown {
        Ok(shown) => [judged(OUTPUT, uri, &shown, expected)].into_iter().chain(shown.clock.map(clock)).collect(),
        Err(failed) => broken(context, OUTPUT, failed.text(), expected, failed.trouble.fix()),
    }
}

/// Lists a source and reads from it.
pub fn source(context: &Context, number: usize) -> Vec<Check> {
    let source = &context.run.data.sources[number];
    let name = of_source(source);
    let expected = "a source that can be listed and read";
    // LAION's rows are read from the shards that were fetched.
    let uri = if let Source::Laion(laion) = source { laion.fetched.as_str() } else { source.uri().as_str() };
    let place = match Location::parse(uri) {
        Ok(place) => place,
        Err(error) => {
            return broken(
                context,
                &name,
                error.to_string(),
                expected,
                "check the source's uri, and the store's variables",
            );
        }
    };
    let is_made = matches!(source, Source::Synthetic(_));
    let is_missing = |shown: &Result<Option<Shown>, Failed>| {
        matches!(shown, Ok(None) | Err(Failed { trouble: Trouble::Missing, .. }))
    };
    let mut shown = wait(read_only(&place));
    // A pattern names objects below a folder, unless something has that very name.
    if let (true, Ok(Some((folder, _)))) = (is_missing(&shown), place.pattern()) {
        shown = wait(read_only(&folder));
    }
    match shown {
        Ok(Some(shown)) => vec![judged(&name, uri, &shown, expected)],
        Ok(None) | Err(Failed { trouble: Trouble::Missing, .. }) if is_made => {
            context.note_broken(&name);
            vec![Check::skipped(name, format!("{uri} is written when the run starts"))]
        }
        Ok(None) => broken(context, &name, format!("{uri}: no object there"), expected, Trouble::Missing.fix()),
        Err(Failed { trouble: Trouble::Missing, said, .. }) => {
            broken(context, &name, format!("{uri}: no object there: {said}"), expected, Trouble::Missing.fix())
        }
        Err(failed) => broken(context, &name, failed.text(), expected, failed.trouble.fix()),
    }
}

/// What the check of a source's store is called.
pub fn of_source(source: &Source) -> String {
    format!("store.{}", source.name())
}

fn broken(context: &Context, name: &str, found: String, expected: &str, fix: &str) -> Vec<Check> {
    context.note_broken(name);
    vec![Check::failure(name, found, expected, fix)]
}

fn judged(name: &str, uri: &str, shown: &Shown, expected: &str) -> Check {
    let Shown { latency, read, written, .. } = *shown;
    let rate = |rate: Option<f64>, what: &str| rate.map_or_else(String::new, |rate| format!(", {rate:.0} MB/s {what}"));
    let found =
        format!("{uri}: {:.1} ms a small read{}{}", latency * 1e3, rate(read, "read"), rate(written, "written"));
    let is_slow = |rate: Option<f64>| rate.is_some_and(|rate| rate < SLOW);
    match latency > LATE || is_slow(read) || is_slow(written) {
        true => {
            let expected = format!("less than {LATE} s and more than {SLOW:.0} MB/s");
            let fix = "take a store near the nodes, or a faster network to it: data and checkpoints may have to wait";
            Check::warning(name, found, &expected, fix)
        }
        false => Check::ok(name, found, expected),
    }
}

fn clock(ahead: f64) -> Check {
    let name = "clock";
    let found = match ahead {
        0.0 => "as the store's, as far as an exchange shows".to_owned(),
        ahead if ahead > 0.0 => format!("{ahead:.0} s ahead of the store's"),
        behind => format!("{:.0} s behind the store's", -behind),
    };
    let expected = format!("at most {:.0} s apart; stores refuse signatures beyond 5 to 15 minutes", CLOCK[0]);
    let fix = "set this machine's clock (`chronyc makestep`, `timedatectl set-ntp true`), or the store's";
    match ahead.abs() {
        apart if apart > CLOCK[1] => Check::failure(name, found, &expected, fix),
        apart if apart > CLOCK[0] => Check::warning(name, found, &expected, fix),
        _ => Check::ok(name, found, expected),
    }
}

impl Failed {
    fn new(action: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { action, trouble: Trouble::of(error), said: error.to_string() }
    }

    /// A store that promises something else than it does.
    fn odd(action: &'static str, said: &str) -> Self {
        Self { action, trouble: Trouble::Other, said: said.to_owned() }
    }

    fn text(&self) -> String {
        format!("{}: {}: {}", self.action, self.trouble.found(), self.said)
    }
}

/// Runs exchanges to their end. Threads that a network file system holds are left to themselves.
fn wait<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new("start input and output", &error))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// One exchange, within its time.
async fn exchange<T>(
    place: &Location,
    action: &'static str,
    work: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(EXCHANGE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failed::new(action, &place.error(action, error))),
        Err(_) => {
            let said = format!("{}: no answer within {} s", place.uri(), EXCHANGE.as_secs());
            Err(Failed { action, trouble: Trouble::Silent, said })
        }
    }
}

async fn write_and_read(folder: &Location) -> Result<Shown, Failed> {
    let (small, large) = (folder.child("small"), folder.child("large"));
    let before = seconds();
    let bytes = vec![7_u8; SMALL as usize];
    let written = exchange(&small, "write", small.store.put(&small.path, PutPayload::from(bytes.clone()))).await;
    let after = seconds();
    let shown = match written {
        Ok(_) => looked_at(folder, (&small, &large), &bytes, [before, after]).await,
        // It may have arrived all the same.
        Err(failed) => Err(failed),
    };
    for place in [&small, &large] {
        // One that was not written is not there.
        let _gone = exchange(place, "delete", place.store.delete(&place.path)).await;
    }
    let shown = shown?;
    let left = exchange(&small, "list", small.store.list_with_delimiter(Some(&folder.path))).await;
    match left.is_ok_and(|left| !left.objects.is_empty()) {
        true => {
            Err(Failed::odd("delete", "an object that was deleted is still listed; give this user the right to delete"))
        }
        false => Ok(shown),
    }
}

async fn looked_at(
    folder: &Location,
    (small, large): (&Location, &Location),
    bytes: &[u8],
    [before, after]: [f64; 2],
) -> Result<Shown, Failed> {
    let there = exchange(small, "read", async { small.store.get(&small.path).await?.bytes().await }).await?;
    if there != *bytes {
        return Err(Failed::odd("read", "other bytes were read than were written"));
    }
    let listed = exchange(folder, "list", folder.store.list_with_delimiter(Some(&folder.path))).await?;
    if listed.objects.is_empty() {
        return Err(Failed::odd("list", "an object that was written is not listed"));
    }
    let meta = exchange(small, "read", small.store.head(&small.path)).await?;
    let again = small.store.put_opts(&small.path, PutPayload::from(bytes.to_vec()), PutOptions::from(PutMode::Create));
    match tokio::time::timeout(EXCHANGE, again).await {
        Ok(Err(object_store::Error::AlreadyExists { .. })) => {}
        Ok(Err(error)) => return Err(Failed::new("write only if absent", &small.error("write", error))),
        Ok(Ok(_)) => {
            let said = "an object that was there was written again; two jobs could own one run. Use a path, s3:// with \
                        conditional writes (`If-None-Match: *`), gs:// or az://";
            return Err(Failed::odd("write only if absent", said));
        }
        Err(_) => return Err(Failed::odd("write only if absent", "no answer")),
    }
    let latency = latency(small, SMALL).await?;
    let began = Instant::now();
    exchange(large, "write", large.store.put(&large.path, PutPayload::from(vec![7_u8; LARGE as usize]))).await?;
    let written = rate(LARGE, began);
    let read = Some(throughput(large, LARGE).await?);
    let clock = Some(ahead([before, after], modified(&meta)));
    Ok(Shown { latency, read, written: Some(written), clock })
}

/// What a source shows; nothing where it holds nothing.
async fn read_only(place: &Location) -> Result<Option<Shown>, Failed> {
    // The first page of the listing is enough; there may be millions of objects.
    let first = async { place.store.list(Some(&place.path)).take(LISTED).try_collect::<Vec<_>>().await };
    let listed = match exchange(place, "list", first).await {
        // A web server hands out what it cannot list.
        Err(_) if place.uri().starts_with("http") => return Ok(Some(of_object(place, &place.path, LARGE).await?)),
        listed => listed?,
    };
    if let Some(largest) = listed.iter().max_by_key(|object| object.size.min(LARGE)) {
        return Ok(Some(of_object(place, &largest.location, largest.size).await?));
    }
    // The URI may name an object itself.
    match exchange(place, "read", place.store.head(&place.path)).await {
        Ok(meta) => Ok(Some(of_object(place, &meta.location, meta.size).await?)),
        Err(Failed { trouble: Trouble::Missing, .. }) => Ok(None),
        Err(failed) => Err(failed),
    }
}

async fn of_object(place: &Location, path: &object_store::path::Path, size: u64) -> Result<Shown, Failed> {
    let mut object = place.clone();
    object.path = path.clone();
    if size == 0 {
        return Ok(Shown::default());
    }
    let latency = latency(&object, size.min(SMALL)).await?;
    // A small object shows no throughput.
    let read = if size < LARGE / 4 { None } else { Some(throughput(&object, size.min(LARGE)).await?) };
    Ok(Shown { latency, read, ..Shown::default() })
}

async fn latency(place: &Location, bytes: u64) -> Result<f64, Failed> {
    let mut taken = Vec::new();
    for _ in 0..READS {
        let began = Instant::now();
        exchange(place, "read", place.store.get_range(&place.path, 0..bytes)).await?;
        taken.push(began.elapsed().as_secs_f64());
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[READS / 2])
}

async fn throughput(place: &Location, bytes: u64) -> Result<f64, Failed> {
    let began = Instant::now();
    exchange(place, "read", place.store.get_range(&place.path, 0..bytes)).await?;
    Ok(rate(bytes, began))
}

fn rate(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64().max(1e-9)
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Different enough for names.
fn nanoseconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos())
}

/// When the store says that an object was written, in seconds since 1970; stores tell whole seconds.
fn modified(meta: &ObjectMeta) -> f64 {
    meta.last_modified.timestamp() as f64
}

/// Seconds that this clock is ahead of the store's, which wrote an object between two readings of ours and told whole
/// seconds.
fn ahead([before, after]: [f64; 2], modified: f64) -> f64 {
    // What the store calls second s was in s..s+1 of its clock.
    let (earliest, latest) = (before - (modified + 1.0), after - modified);
    match () {
        () if earliest > 0.0 => earliest,
        () if latest < 0.0 => latest,
        () => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn clocks_are_compared_as_far_as_whole_seconds_allow() {
        assert_eq!(ahead([100.2, 100.4], 100.0), 0.0);
        assert_eq!(ahead([100.9, 101.3], 101.0), 0.0);
        assert_eq!(ahead([3700.5, 3700.6], 100.0), 3599.5);
        assert_eq!(ahead([100.5, 100.5], 3700.0), -3599.5);
        assert_eq!([0.0, 30.0, -3599.0].map(|apart| clock(apart).state), [State::Ok, State::Warning, State::Failure]);
    }

    /// A folder of a test's own, removed with this value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("blip2-doctor-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn set(&self, key: &str, below: &str) -> String {
            format!("{key}={}", self.0.join(below).display())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_folder_that_can_be_written_to_passes_and_is_left_as_it_was() {
        let folder = Folder::new("output");
        let context = Context::for_tests(&[&folder.set("run.output", "runs/a")]);
        let found = output(&context);
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [OUTPUT, "clock"], "{found:?}");
        assert!(found.iter().all(|check| check.state <= State::Warning), "{found:?}");
        assert!(!folder.0.join("runs/a").exists());
    }

    #[test]
    fn a_file_where_a_folder_is_to_be_cannot_be_written_below() {
        let folder = Folder::new("file");
        std::fs::write(folder.0.join("file"), "x").unwrap();
        let context = Context::for_tests(&[&folder.set("run.output", "file/run")]);
        let found = output(&context);
        assert_eq!(found[0].state, State::Failure, "{found:?}");
        assert!(context.is_broken(OUTPUT));
    }

    #[test]
    fn a_source_that_is_not_there_is_missing_unless_the_run_writes_it() {
        let folder = Folder::new("source");
        let context = Context::for_tests(&[&folder.set("data.sources[0].uri", "none")]);
        assert_eq!(source(&context, 0)[0].state, State::Skipped);
        assert!(context.is_broken("store.synthetic"));
    }
}
