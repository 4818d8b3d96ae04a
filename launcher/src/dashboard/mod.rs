//! A live page on a run: `blip2 dashboard` and `blip2 launch --dashboard`. It reads what the run writes, changes nothing,
//! and is served at 127.0.0.1 alone; people elsewhere reach it through an SSH tunnel.

mod answer;
mod live;
mod page;
mod ranks;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use configs::Run;

use crate::cli::DashboardArgs;
use crate::data::block_on;
use crate::exit::Interrupted;
use crate::ranks::{Interrupts, Programs};
use crate::status::{Watcher, output_of};
use live::Live;
use server::Server;

/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(100);
/// What an interruption leaves.
const UNTOUCHED: &str = "the page has ended, the run was not touched";

/// Serves the page until Ctrl-C.
///
/// # Errors
/// A configuration that is wrong, a port that is in use, a store that fails at the first look, a folder in which nothing
/// of a run is, [`Interrupted`] at the end.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &DashboardArgs, programs: &Programs) -> anyhow::Result<()> {
    let listener = server::bind(args.port)?;
    let mut watcher = Watcher::of(&output_of(&args.run, &args.set)?, programs)?;
    let interrupts = Interrupts::watch()?;
    block_on(watcher.look(), UNTOUCHED)?.of_a_run()?;
    let dashboard = Dashboard::start(listener, watcher)?;
    println!("{}", dashboard.invitation());
    while interrupts.count() == 0 {
        std::thread::sleep(TICK);
    }
    Err(Interrupted(UNTOUCHED).into())
}

/// A page that is served until this value is dropped.
pub struct Dashboard {
    server: Server,
}

impl Dashboard {
    /// On a run that this process launches.
    ///
    /// # Errors
    /// A port that is in use; a system that gives no thread.
    pub fn of_launch(run: &Run, port: u16, programs: &Programs) -> anyhow::Result<Self> {
        let listener = server::bind(port)?;
        let mut watcher = Watcher::of(run.run.output.as_str(), programs)?;
        watcher.is_ours = true;
        Self::start(listener, watcher)
    }

    fn start(listener: std::net::TcpListener, watcher: Watcher) -> anyhow::Result<Self> {
        let live = Live::start(watcher)?;
        let server = Server::start(listener, move |path| answer::answer(path, &live))?;
        Ok(Self { server })
    }

    /// Where the page is, and how to reach it from elsewhere.
    pub fn invitation(&self) -> String {
        let port = self.server.port();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!(
            "dashboard: http://127.0.0.1:{port}/ (from elsewhere: ssh -N -L {port}:127.0.0.1:{port} {host}, then the \
             same address)"
        )
    }
}
