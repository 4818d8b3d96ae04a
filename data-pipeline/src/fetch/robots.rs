//! What sites ask of robots: `X-Robots-Tag` headers and `robots.txt`.

use std::time::Duration;

use reqwest::header::HeaderMap;
use texting_robots::Robot;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::download::Failure;
use super::hosts::Remembered;

/// Directives that forbid the use of an image; img2dataset obeys the same.
const FORBIDDING: [&str; 4] = ["noai", "noimageai", "noindex", "noimageindex"];
/// Directives that have a value after a colon; any other word in front of a colon names a robot.
const WITH_VALUE: [&str; 4] = ["unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"];
/// More of a robots.txt is not read; RFC 9309 asks for at least 500 KiB.
pub(super) const MAX_ROBOTS_BYTES: u64 = 512 << 10;
/// What the rules of all remembered sites may weigh, by the lengths of their files.
const REMEMBERED_BYTES: usize = 64 << 20;
/// What a site weighs beyond its file.
const SITE_BYTES: usize = 1 << 10;
/// How long a site that could not be asked for its rules counts as unreachable.
const UNREACHABLE_FOR: Duration = Duration::from_secs(60);
/// The longest `Crawl-delay` that is waited for; longer ones are shortened to it.
const LONGEST_CRAWL_DELAY: f32 = 5.0;

/// Whether `X-Robots-Tag` headers forbid the use of what they come with, for everybody or for the robot `agent`.
pub(super) fn forbidden_by_header(headers: &HeaderMap, agent: &str) -> bool {
    headers.get_all("x-robots-tag").iter().any(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let mut for_us = true;
        value.split(',').any(|part| {
            let mut directive = part.trim();
            if let Some((name, rest)) = directive.split_once(':')
                && !WITH_VALUE.contains(&name.trim())
            {
                for_us = name.trim() == agent || name.trim() == "*";
                directive = rest.trim();
            }
            for_us && FORBIDDING.contains(&directive)
        })
    })
}

/// What a site's robots.txt says to one robot.
pub(super) enum SiteRules {
    /// There is none, or none is asked for.
    Everything,
    /// Its rules.
    Rules(Box<Robot>),
}

impl SiteRules {
    /// The rules in a robots.txt; `None` when they are beyond its reader. Pages that are no robots.txt have no rules.
    pub(super) fn parse(agent: &str, text: &[u8]) -> Option<Self> {
        Robot::new(agent, text).ok().map(|robot| Self::Rules(Box::new(robot)))
    }

    /// Whether `url` may be asked for.
    pub(super) fn allows(&self, url: &Url) -> bool {
        match self {
            Self::Everything => true,
            Self::Rules(robot) => robot.allowed(url.as_str()),
        }
    }

    /// The pause between two requests that the site wishes.
    pub(super) fn delay(&self) -> Duration {
        match self {
            Self::Rules(robot) => {
                let seconds = robot.delay.filter(|delay| delay.is_finite()).unwrap_or(0.0);
                Duration::from_secs_f32(seconds.clamp(0.0, LONGEST_CRAWL_DELAY))
            }
            Self::Everything => Duration::ZERO,
        }
    }
}

/// One site's rules once they are known; whoever asks first holds the lock while they are fetched.
pub(super) type Site = Mutex<Option<Known>>;

/// The outcome of asking for a robots.txt.
pub(super) enum Known {
    /// The rules.
    Rules(std::sync::Arc<SiteRules>),
    /// Why there are none, and when that was found.
    Unreachable(Failure, Instant),
}

impl Known {
    /// The rules or the failure, unless it is too old to be trusted.
    pub(super) fn verdict(&self) -> Option<Result<std::sync::Arc<SiteRules>, Failure>> {
        match self {
            Self::Rules(rules) => Some(Ok(rules.clone())),
            Self::Unreachable(failure, since) => {
                (since.elapsed() < UNREACHABLE_FOR).then(|| Err(failure.clone().permanent()))
            }
        }
    }
}

/// The rules of the sites asked lately.
pub(super) struct Sites(Remembered<Site>);

impl Sites {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Remembered::new(REMEMBERED_BYTES))
    }

    /// The site with this origin.
    pub(super) fn site(&self, origin: &str) -> std::sync::Arc<Site> {
        self.0.get(origin, SITE_BYTES, || Mutex::new(None))
    }

    /// Says how long the robots.txt of a site is. Compiled rules take several times their text.
    pub(super) fn weigh(&self, origin: &str, bytes: usize) {
        self.0.weigh(origin, SITE_BYTES + 4 * bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbids(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("X-Robots-Tag", value.parse().unwrap());
        }
        forbidden_by_header(&headers, "blip2-fetch")
    }

    #[test]
    fn headers_for_everybody_and_for_us_are_obeyed() {
        for values in [
            &["noai"][..],
            &["NoIndex, nofollow"],
            &["all", "noimageai"],
            &["blip2-fetch: noai"],
            &["otherbot: nofollow, Blip2-Fetch: noimageindex"],
            &["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"],
            &["*: noindex"],
        ] {
            assert!(forbids(values), "{values:?}");
        }
        for values in [&[][..], &["all"], &["otherbot: noai, noindex"], &["max-snippet: 5"], &["noarchive, nofollow"]] {
            assert!(!forbids(values), "{values:?}");
        }
    }

    #[test]
    fn the_rules_of_a_site_are_those_for_us() {
        let text = b"User-agent: *\nDisallow: /\n\nUser-agent: blip2-fetch\nDisallow: /private/\nCrawl-delay: 60\n";
        let url = |path: &str| Url::parse(&format!("http://a.example{path}")).unwrap();
        let ours = SiteRules::parse("blip2-fetch", text).unwrap();
        assert!(ours.allows(&url("/a.jpg")) && !ours.allows(&url("/private/a.jpg")));
        assert_eq!(ours.delay(), Duration::from_secs(5));
        assert!(!SiteRules::parse("other", text).unwrap().allows(&url("/a.jpg")));
        assert!(SiteRules::parse("other", b"<html>not found</html>").unwrap().allows(&url("/a.jpg")));
    }
}
