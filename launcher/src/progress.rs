//! Progress that suits where it is read: a bar on a terminal, a line now and then in a log.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one long piece of work, shown on standard error.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    unit: &'static str,
    last_line: Mutex<Instant>,
}

impl Progress {
    /// Starts showing `what`, counted in `unit`. The total may be unknown (0) at first.
    pub fn start(what: &str, unit: &'static str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        Self { bar, terminal, unit, last_line: Mutex::new(Instant::now()) }
    }

    /// Says how far the work is.
    pub fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.terminal {
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            self.line(&format!(
                "{}: {done}/{total} {}, {:.0}/s, ETA {}",
                self.bar.message(),
                self.unit,
                self.bar.per_sec(),
                indicatif::HumanDuration(self.bar.eta())
            ));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    #[expect(clippy::print_stderr, reason = "progress is what this module prints")]
    fn line(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// Bytes in binary units.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
