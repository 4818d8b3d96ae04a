//! Whether ranks are started again after a failure, and when.

use std::time::Duration;

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);

/// How a launch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Whether it committed a checkpoint.
    pub progressed: bool,
    /// Whether another try may go better: not after a wrong config, a lost lease, or too few resources.
    pub may_go_better: bool,
    /// An error that a rank reported, with the stage and step: one that comes again will always come.
    pub error: Option<String>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ranks are started again after a while.
    Again {
        /// The while.
        after: Duration,
        /// How many starts without progress this makes.
        number: u64,
    },
    /// They are not, and why.
    GiveUp(String),
}

/// Counts starts that brought no progress.
#[derive(Debug)]
pub struct Restarts {
    max: u64,
    backoff: Duration,
    used: u64,
    last_error: Option<String>,
}

impl Restarts {
    /// As the config says.
    pub fn new(settings: &configs::Restarts) -> Self {
        Self { max: settings.max, backoff: Duration::from_secs(settings.backoff_s), used: 0, last_error: None }
    }

    /// What follows the end of a launch.
    pub fn after(&mut self, end: &End) -> Next {
        if end.progressed {
            (self.used, self.last_error) = (0, None);
        }
        if !end.may_go_better {
            return Next::GiveUp("another try would end the same way".to_owned());
        }
        if end.error.is_some() && end.error == self.last_error {
            return Next::GiveUp(
                "the same error came again at the same step, without a checkpoint in between".to_owned(),
            );
        }
        if self.used >= self.max {
            let max = self.max;
            return Next::GiveUp(format!("cluster.restarts.max = {max} starts in a row brought no checkpoint"));
        }
        let doublings = u32::try_from(self.used).unwrap_or(u32::MAX).min(16);
        let after = self.backoff.saturating_mul(1 << doublings).min(LONGEST.max(self.backoff));
        self.used += 1;
        self.last_error.clone_from(&end.error);
        Next::Again { after, number: self.used }
    }

    /// Starts without progress that are allowed.
    pub fn max(&self) -> u64 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restarts(max: u64) -> Restarts {
        Restarts::new(&configs::Restarts { max, backoff_s: 5, fewer_ranks: true, exclude_host_after: None })
    }

    fn end(progressed: bool, error: Option<&str>) -> End {
        End { progressed, may_go_better: true, error: error.map(str::to_owned) }
    }

    #[test]
    fn waits_double_until_progress() {
        let mut restarts = restarts(3);
        let mut waits = |progressed| match restarts.after(&end(progressed, None)) {
            Next::Again { after, number } => (after.as_secs(), number),
            Next::GiveUp(_) => (0, 0),
        };
        assert_eq!([waits(false), waits(false), waits(true), waits(false)], [(5, 1), (10, 2), (5, 1), (10, 2)]);
        assert_eq!([waits(false), waits(false)], [(20, 3), (0, 0)]);
    }

    #[test]
    fn an_error_that_comes_again_ends_it() {
        let mut restarts = restarts(10);
        assert!(matches!(restarts.after(&end(false, Some("step 7: a"))), Next::Again { .. }));
        assert!(matches!(restarts.after(&end(false, Some("step 9: a"))), Next::Again { .. }));
        assert!(matches!(restarts.after(&end(true, Some("step 9: a"))), Next::Again { .. }));
        let Next::GiveUp(why) = restarts.after(&end(false, Some("step 9: a"))) else { panic!("tried again") };
        assert!(why.contains("same error"), "{why}");
    }

    #[test]
    fn what_cannot_go_better_is_not_tried() {
        let hopeless = End { may_go_better: false, ..end(false, None) };
        assert!(matches!(restarts(10).after(&hopeless), Next::GiveUp(_)));
        assert!(matches!(restarts(0).after(&end(false, None)), Next::GiveUp(_)));
    }
}
