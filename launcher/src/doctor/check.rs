//! What a check found, and checks that can neither hang nor panic the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::context::Context;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not looked at; `found` says why.
    Skipped,
    /// The run may work, and something is not as it should be.
    Warning,
    /// The run will not work.
    Failure,
}

impl State {
    /// The word for people and scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, which scripts rely on.
    pub name: String,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What was expected; empty where nothing was looked at.
    pub expected: String,
    /// What to do; empty where nothing is to be done.
    pub fix: String,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::new(State::Ok, name, [found.into(), expected.into(), String::new()])
    }

    /// Not looked at, and why.
    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(State::Skipped, name, [why.into(), String::new(), String::new()])
    }

    /// Something to know of: what was found, what was expected, what to do.
    pub fn warning(name: impl Into<String>, found: impl Into<String>, expected: &str, fix: impl Into<String>) -> Self {
        Self::new(State::Warning, name, [found.into(), expected.to_owned(), fix.into()])
    }

    /// Something that stops the run.
    pub fn failure(name: impl Into<String>, found: impl Into<String>, expected: &str, fix: impl Into<String>) -> Self {
        Self::new(State::Failure, name, [found.into(), expected.to_owned(), fix.into()])
    }

    fn new(state: State, name: impl Into<String>, [found, expected, fix]: [String; 3]) -> Self {
        Self { name: name.into(), state, found, expected, fix }
    }
}

/// What looks.
type Look = Box<dyn FnOnce(&Context) -> Vec<Check> + Send>;

/// A check, or several that belong together.
pub struct Task {
    /// What progress and a check that does not end call it.
    name: String,
    limit: Duration,
    look: Look,
}

impl Task {
    /// One that may take so many seconds.
    pub fn new(
        name: impl Into<String>,
        seconds: u64,
        look: impl FnOnce(&Context) -> Vec<Check> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), limit: Duration::from_secs(seconds), look: Box::new(look) }
    }
}

impl Task {
    /// The part of the name in front of a point: `store` of `store.output`.
    pub fn group(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// A task that runs.
struct Running {
    name: String,
    limit: Duration,
    answer: Option<Receiver<Result<Vec<Check>, String>>>,
}

/// Runs tasks side by side, each within its own time and none beyond `until`. What does not end is left to itself: it
/// ends with
/// the process.
pub fn run(context: &Arc<Context>, until: Instant, tasks: Vec<Task>) -> Vec<Check> {
    let began = Instant::now();
    if began >= until {
        let late = |task: Task| Check::skipped(task.name, "no time was left; look at it alone with --only");
        return tasks.into_iter().map(late).collect();
    }
    let running: Vec<Running> = tasks.into_iter().map(|task| start(context, task)).collect();
    let mut checks = Vec::new();
    for Running { name, limit, answer } in running {
        let Some(answer) = answer else {
            let fix = "raise the limit on processes (`ulimit -u`), or end what else this user runs";
            checks.push(Check::failure(name, "no thread can be started", "a thread for the check", fix));
            continue;
        };
        let end = (began + limit).min(until);
        match answer.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Ok(found)) => checks.extend(found),
            Ok(Err(panic)) => {
                let fix = "this is a mistake in blip2: report it with this line; the other checks stand";
                checks.push(Check::failure(name, format!("the check panicked: {panic}"), "an answer", fix));
            }
            Err(_) => {
                let found = format!("no answer within {:.0} s", began.elapsed().as_secs_f64());
                let fix = "something that the check asks hangs: a store, a network file system, or a program; see \
                     the other checks";
                checks.push(Check::failure(name, found, "an answer", fix));
            }
        }
    }
    checks
}

fn start(context: &Arc<Context>, task: Task) -> Running {
    let Task { name, limit, look } = task;
    let (sender, answer) = channel();
    let context = Arc::clone(context);
    let named = name.clone();
    let work = move || {
        context.say(&named);
        let found = catch_unwind(AssertUnwindSafe(|| look(&context)));
        let found = found.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
        });
        let _nobody_waits_any_more = sender.send(found);
    };
    let started = std::thread::Builder::new().name("doctor".to_owned()).spawn(work);
    Running { name, limit, answer: started.is_ok().then_some(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_or_panics_is_a_failure_and_the_others_stand() {
        let context = Arc::new(Context::for_tests(&[]));
        let tasks = vec![
            Task::new("hangs", 0, |_| {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }),
            Task::new("panics", 5, |_| panic!("the moon is full")),
            Task::new("works", 5, |_| vec![Check::ok("works", "a", "b")]),
        ];
        let found = run(&context, Instant::now() + Duration::from_secs(30), tasks);
        let states: Vec<(&str, State)> = found.iter().map(|it| (it.name.as_str(), it.state)).collect();
        assert_eq!(states, [("hangs", State::Failure), ("panics", State::Failure), ("works", State::Ok)]);
        assert!(found[0].found.contains("no answer within 0 s"), "{found:?}");
        assert!(found[1].found.contains("the moon is full"), "{found:?}");
    }

    #[test]
    fn what_would_begin_too_late_is_skipped() {
        let context = Arc::new(Context::for_tests(&[]));
        let found = run(&context, Instant::now(), vec![Task::new("late", 5, |_| panic!("it began"))]);
        assert_eq!((found.len(), found[0].state), (1, State::Skipped));
    }

    #[test]
    fn states_are_told_in_words_that_scripts_read() {
        let check = Check::failure("a", "b", "c", "d");
        let text = serde_json::to_value(&check).unwrap();
        assert_eq!(
            text,
            serde_json::json!({ "name": "a", "state": "failure", "found": "b", "expected": "c", "fix": "d" })
        );
        assert_eq!(serde_json::from_value::<Check>(text).unwrap(), check);
    }
}
