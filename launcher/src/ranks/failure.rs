//! Ranks that ended other than well, for the message and for what follows.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::health::Verdict;
use super::restarts::End;
use crate::exit;

/// Ranks that ended other than well.
#[derive(Debug, thiserror::Error)]
#[error("{}{command}\nended with {}{}\n{next}", first_line(culprit.as_ref()), described(*status), last_lines(tail))]
pub struct RankFailure {
    /// The command that started them.
    pub command: String,
    /// How that ended; `None` when the launcher ended it.
    pub status: Option<ExitStatus>,
    /// The last lines on standard error.
    pub tail: Vec<String>,
    /// What a person does.
    pub next: &'static str,
    /// Who is to blame.
    pub culprit: Option<Culprit>,
    /// Whether the launch committed a checkpoint.
    pub progressed: bool,
}

/// Who is to blame for a failure.
#[derive(Clone, Debug)]
pub struct Culprit {
    /// The ranks, and one line.
    pub verdict: Verdict,
    /// The machine of the first of them.
    pub host: Option<String>,
    /// The code that ranks told, which starters of ranks do not pass on reliably.
    pub code: Option<u8>,
    /// Whether another try may go better.
    pub again: bool,
    /// The error that a rank reported, with where it was.
    pub error: Option<String>,
}

impl RankFailure {
    /// The exit code of the ranks; `None` when a signal ended them, or the launcher did.
    pub fn code(&self) -> Option<i32> {
        let told = self.culprit.as_ref().and_then(|culprit| culprit.code).filter(|code| *code != 0);
        told.map(i32::from).or_else(|| self.status?.code())
    }

    /// What it means for another try.
    pub fn end(&self) -> End {
        let code = self.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::ERROR);
        let is_final = [exit::USAGE, exit::PREEMPTED, exit::HELD, exit::RESOURCES].contains(&code);
        let error = match &self.culprit {
            Some(culprit) => culprit.error.clone(),
            // No rank got so far as to report: the starter's own words.
            None => Some(self.tail.last().cloned().unwrap_or_default()),
        };
        End {
            progressed: self.progressed,
            may_go_better: !is_final && self.culprit.as_ref().is_none_or(|culprit| culprit.again),
            error,
        }
    }
}

fn first_line(culprit: Option<&Culprit>) -> String {
    culprit.map_or_else(String::new, |culprit| format!("{}\n", culprit.verdict.line))
}

fn described(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        None => "the launcher ending it".to_owned(),
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(9))) => "signal 9 (killed; the system does so when memory runs out)".to_owned(),
        Some((None, Some(signal))) => format!("signal {signal}"),
        Some((None, None)) => "an unknown status".to_owned(),
    }
}

fn last_lines(tail: &[String]) -> String {
    if tail.is_empty() {
        return "; it wrote nothing to standard error".to_owned();
    }
    format!("; its last lines on standard error:\n  {}", tail.join("\n  "))
}
