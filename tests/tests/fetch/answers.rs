//! What becomes of answers, refusals, and how politely hosts are asked.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use data_pipeline::image::{DecodeLimits, decode};
use integration_tests::programs::{all_output, run_within};
use integration_tests::web::{Reply, Web};

use crate::site::{
    answer, assert_same, contents, done, fetch, moved, ok, pictures, read, slow, status, texts, write_metadata,
};

/// Servers that stand for hosts of different kinds.
struct Sites {
    /// Has [`answer`] and no robots.txt.
    web: Web,
    /// Forbids `/private/`.
    fenced: Web,
    /// Fails when it is asked for its rules.
    mute: Web,
    /// Is on the list of blocked hosts.
    blocked: Web,
    /// Lead from an open site to where nobody may go.
    to_fence: Web,
    to_blocked: Web,
    /// Where no server is any more.
    closed: String,
}

impl Sites {
    fn serve() -> Self {
        let web = Web::serve("127.0.0.2", |request| {
            assert!(request.user_agent.starts_with("blip2-fetch/"), "{}", request.user_agent);
            answer(request)
        });
        let fenced = Web::serve("127.0.0.3", |request| match request.path.as_str() {
            "/robots.txt" => ok(b"User-agent: *\nDisallow: /private/\n".to_vec()),
            _ => answer(request),
        });
        let mute = Web::serve("127.0.0.4", |request| match request.path.as_str() {
            "/robots.txt" => status(503),
            _ => answer(request),
        });
        let blocked = Web::serve("127.0.0.5", answer);
        let redirects_into = |to: &Web, path: &str| {
            let target = to.url(path);
            Web::serve(
                "127.0.0.6",
                move |request| if request.path == "/robots.txt" { status(404) } else { moved(&target) },
            )
        };
        let (to_fence, to_blocked) = (redirects_into(&fenced, "/private/1"), redirects_into(&blocked, "/picture/1"));
        let closed = { Web::serve("127.0.0.7", answer).host.clone() };
        Self { web, fenced, mute, blocked, to_fence, to_blocked, closed }
    }

    /// URLs with the status and the reason that they must get.
    fn expected(&self) -> Vec<(Option<String>, &'static str, Option<&'static str>)> {
        let Self { web, fenced, mute, blocked, to_fence, to_blocked, closed } = self;
        let (download, resize) = ("failed_to_download", "failed_to_resize");
        vec![
            (Some(web.url("/picture/0")), "success", None),
            (Some(web.url("/chain/3")), "success", None),
            (Some(web.url("/busy")), "success", None),
            (Some(web.url("/late")), "success", None),
            (Some(web.url("/unlabelled")), "success", None),
            (Some(web.url("/for-others")), "success", None),
            (Some(web.url("/unannounced")), "success", None),
            (Some(web.url("/rgba.png")), "success", None),
            (Some(web.url("/exif")), "success", None),
            (Some(fenced.url("/picture/9")), "success", None),
            (Some(web.url("/loop")), download, Some("too_many_redirects")),
            (Some(web.url("/nowhere")), download, Some("invalid_redirect")),
            (Some(web.url("/gone")), download, Some("http_404")),
            (Some(web.url("/teapot")), download, Some("http_418")),
            (Some(web.url("/broken")), download, Some("http_500")),
            (Some(web.url("/empty")), download, Some("empty_body")),
            (Some(web.url("/short")), download, Some("incomplete_body")),
            (Some(web.url("/stall")), download, Some("timeout")),
            (Some(web.url("/hang")), download, Some("timeout")),
            (Some(web.url("/long")), download, Some("too_large")),
            (Some(web.url("/longer")), download, Some("too_large")),
            (Some(web.url("/noai")), download, Some("x_robots_tag")),
            (Some(web.url("/unsafe")), download, Some("blocked_content")),
            (Some(web.url("/blocked.jpg")), download, Some("blocked_url")),
            (Some(blocked.url("/picture/2")), download, Some("blocked_url")),
            (Some(to_blocked.url("/x")), download, Some("blocked_url")),
            (Some(fenced.url("/private/1")), download, Some("robots_txt")),
            (Some(to_fence.url("/x")), download, Some("robots_txt")),
            (Some(mute.url("/picture/1")), download, Some("robots_txt_unreachable")),
            (Some(format!("http://{closed}/picture/1")), download, Some("connection_failed")),
            (Some("ftp://127.0.0.2/a.jpg".into()), download, Some("unsupported_scheme")),
            (Some("no url at all".into()), download, Some("invalid_url")),
            (None, download, Some("no_url")),
            (Some(" ".into()), download, Some("no_url")),
            (Some(web.url("/page.jpg")), resize, Some("not an image")),
            (Some(web.url("/cut")), resize, Some("truncated")),
            (Some(web.url("/bomb")), resize, Some("too_many_pixels")),
            (Some(web.url("/tiny")), resize, Some("image too small")),
        ]
    }
}

#[test]
fn every_kind_of_answer_becomes_a_row_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let sites = Sites::serve();
    let expected = sites.expected();
    let urls: Vec<Option<String>> = expected.iter().map(|(url, ..)| url.clone()).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let (blocklist, contents) = (folder.path().join("urls"), folder.path().join("contents"));
    fs::write(&blocklist, format!("127.0.0.5\n{}\n", sites.web.url("/blocked.jpg"))).unwrap();
    let sha256 = Command::new("sha256sum").stdin(file(folder.path(), &pictures()[8])).output().unwrap();
    fs::write(&contents, sha256.stdout).unwrap();
    let lists =
        [format!("--url-blocklist={}", blocklist.display()), format!("--content-blocklist={}", contents.display())];
    let more = ["--allow-private-addresses", "--max-download-mb=2", "--min-side=24", &lists[0], &lists[1]];
    let summary = done(&run_within(60, &fetch(&metadata, &out, &more)));

    let batches = read(&out);
    assert_eq!(
        batches[0].schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        [
            "SAMPLE_ID",
            "HEIGHT",
            "NSFW",
            "similarity",
            "caption",
            "url",
            "key",
            "status",
            "error_message",
            "width",
            "height",
            "original_width",
            "original_height",
            "exif",
            "sha256",
            "jpg",
        ]
    );
    let (statuses, messages) = (texts(&batches, "status"), texts(&batches, "error_message"));
    for (row, (url, status, reason)) in expected.iter().enumerate() {
        let found = messages[row].as_deref().map(|message| message.split(':').next().unwrap());
        assert_eq!((statuses[row].as_deref(), found), (Some(*status), *reason), "{url:?}: {:?}", messages[row]);
    }
    assert_eq!(texts(&batches, "url"), urls);
    assert_eq!(texts(&batches, "key")[13].as_deref(), Some("000000013"));
    let captions = texts(&batches, "caption");
    assert_eq!((captions[2].as_deref(), &captions[3]), (Some("text 2"), &None));
    check_pictures(&batches);
    assert_eq!((summary["successes"].as_u64(), summary["rows"].as_u64()), (Some(10), Some(38)), "{summary}");
    assert_eq!(summary["reasons"]["blocked_url"].as_u64(), Some(3), "{summary}");
    assert_eq!(
        (sites.web.asked("/blocked.jpg"), sites.blocked.asked_in_all(), sites.fenced.asked("/private/1")),
        (0, 0, 0)
    );
    assert_eq!(
        (sites.web.asked("/robots.txt"), sites.web.asked("/gone"), sites.web.asked("/broken")),
        (1, 1, 2),
        "tried again or not"
    );
    let stats: serde_json::Value = serde_json::from_slice(&fs::read(out.join("00000_stats.json")).unwrap()).unwrap();
    assert_eq!(stats["status_dict"]["success"].as_u64(), Some(10), "{stats}");
    assert_eq!(
        (stats["failed_to_download"].as_u64(), stats["failed_to_resize"].as_u64()),
        (Some(24), Some(4)),
        "{stats}"
    );
}

/// A file with these bytes, opened.
fn file(folder: &Path, bytes: &[u8]) -> Stdio {
    fs::write(folder.join("bytes"), bytes).unwrap();
    fs::File::open(folder.join("bytes")).unwrap().into()
}

/// Pictures are where `success` is, have the size that the columns say, and are what was served.
fn check_pictures(batches: &[RecordBatch]) {
    for batch in batches {
        let images = batch.column_by_name("jpg").unwrap().as_binary::<i32>();
        let statuses = batch.column_by_name("status").unwrap().as_string::<i32>();
        let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int32Type>();
        for row in 0..batch.num_rows() {
            assert_eq!(images.is_valid(row), statuses.value(row) == "success", "row {row}");
            assert_eq!(images.is_valid(row), number("width").is_valid(row), "row {row}");
            if images.is_valid(row) {
                let image = decode(images.value(row), &DecodeLimits::default()).unwrap();
                let size = (number("width").value(row), number("height").value(row));
                assert_eq!((image.width as i32, image.height as i32), size);
                assert_eq!(size.0.min(size.1), 24);
            }
        }
    }
    let first = batches[0].column_by_name("jpg").unwrap().as_binary::<i32>().value(0).to_vec();
    let served = decode(&pictures()[0], &DecodeLimits::default()).unwrap();
    let stored = decode(&first, &DecodeLimits::default()).unwrap();
    let mean = |pixels: &[u8]| pixels.iter().map(|level| f64::from(*level)).sum::<f64>() / pixels.len() as f64;
    // Resizing and JPEG keep the mean level; another picture's differs by more.
    assert!((mean(&served.pixels) - mean(&stored.pixels)).abs() < 1.5);
    let exif = texts(batches, "exif");
    assert!(exif[8].as_deref().unwrap().contains("\"Image Orientation\""), "{exif:?}");
    assert_eq!(exif[0].as_deref(), Some("{}"));
}

#[test]
fn other_settings_or_inputs_are_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.2", answer);
    let urls: Vec<Option<String>> = (0..20).map(|row| Some(web.url(&format!("/picture/{row}")))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let allowed = "--allow-private-addresses";
    done(&run_within(60, &fetch(&metadata, &out, &[allowed])));
    let before = contents(&out);
    let refused = |metadata: &Path, out: &Path, more: &[&str], parts: &[&str]| {
        let output = run_within(60, &fetch(metadata, out, more));
        let said = all_output(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is missing in: {said}"));
    };
    let size = ["settings.picture.quality was 95 and is 90", "Nothing was changed"];
    refused(&metadata, &out, &[allowed, "--quality=90"], &size);
    let other = folder.path().join("other");
    write_metadata(&other, &urls[1..]);
    refused(&other, &out, &[allowed], &["input[0]", "begun with another input"]);
    assert_same("refused", &out, &before);
    refused(&metadata, &metadata, &[allowed], &["there are Parquet files already"]);
    let columns = ["--url-column", "--caption-column=ALT"];
    refused(
        &metadata,
        &folder.path().join("x"),
        &columns[1..],
        &["no column `ALT`", "SAMPLE_ID, URL, TEXT", columns[1].split_once('=').unwrap().0],
    );
    refused(&metadata, &folder.path().join("x"), &["--part-rows=150"], &["part_rows is 150"]);
    // Effort may change, and so may the place of the input.
    let moved = folder.path().join("moved");
    fs::rename(&metadata, &moved).unwrap();
    done(&run_within(60, &fetch(&moved, &out, &[allowed, "--concurrency=3", "--timeout-s=2"])));
}

#[test]
fn addresses_that_are_not_public_are_never_asked() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.1", answer);
    let port = web.host.rsplit(':').next().unwrap();
    let hosts = ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"];
    let urls: Vec<Option<String>> = hosts.iter().map(|host| Some(format!("http://{host}:{port}/picture/1"))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let summary = done(&run_within(60, &fetch(&metadata, &out, &[])));
    assert_eq!(summary["reasons"]["private_address"].as_u64(), Some(6), "{summary}");
    assert_eq!(web.asked_in_all(), 0);
}

#[test]
fn hosts_are_asked_no_faster_than_allowed_and_busy_ones_less() {
    let folder = tempfile::tempdir().unwrap();
    let busy_answers = Arc::new(AtomicUsize::new(0));
    let (calm, busy) = (Web::serve("127.0.0.2", slow), {
        let count = busy_answers.clone();
        Web::serve("127.0.0.3", move |request| match request.path.as_str() {
            "/robots.txt" => status(404),
            _ if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                Reply::Whole(429, vec![("Retry-After", "1".into())], Vec::new())
            }
            _ => answer(request),
        })
    });
    let urls: Vec<Option<String>> =
        (0..60).map(|row| Some([&calm, &busy][row % 2].url(&format!("/picture/{row}")))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let pace = ["--allow-private-addresses", "--per-host=3", "--host-delay-ms=10", "--concurrency=50"];
    let summary = done(&run_within(60, &fetch(&metadata, &out, &pace)));
    assert_eq!(summary["successes"].as_u64(), Some(60), "{summary}");
    assert!(calm.most_at_once() <= 3, "{} at once", calm.most_at_once());
    let starts = calm.starts();
    let took = *starts.last().unwrap() - starts[0];
    assert!(took >= Duration::from_millis(290), "31 requests 10 ms apart took {took:?}");
    let starts = busy.starts();
    let longest = starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest >= Duration::from_millis(900), "the pause that was asked for: {longest:?}");
}
