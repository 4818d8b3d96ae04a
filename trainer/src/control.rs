//! The connection to the launcher: this rank says every second what it does, and is told to leave or to end.
//!
//! One JSON object per line in either direction. The connection that closes is the sign that the other side is gone.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cluster::{Collective, Topology};
use serde::Deserialize;
use serde_json::{Value, json};
use trainer::activity::{Activity, Phase};

use crate::ERROR;
use crate::process::{self, kill_this};
use crate::rank_log::RankLog;

/// Time between two looks at what changed.
const TICK: Duration = Duration::from_millis(200);
/// Time between two reports.
const BEAT: Duration = Duration::from_secs(1);
/// Time in which the launcher must be reached.
const CONNECT: Duration = Duration::from_secs(20);
/// A launcher that takes nothing for so long is gone.
const WRITE: Duration = Duration::from_secs(20);
/// Time that an orderly end of the job gets before this process ends by force.
const ABORT: Duration = Duration::from_secs(3);

/// Where the launcher listens, and how it knows its ranks.
#[derive(Clone, Debug)]
pub struct Address {
    /// `host:port`.
    pub launcher: String,
    /// Proves that this rank belongs to the launch.
    pub token: String,
    /// A launcher that says nothing for so long is gone.
    pub silence: Duration,
}

/// This rank's side of the connection.
pub struct Control {
    activity: Arc<Activity>,
    connection: Mutex<Option<TcpStream>>,
    ranks: OnceLock<Arc<dyn Collective>>,
}

/// What the launcher says.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Order {
    /// It is still there.
    Ping,
    /// Write a checkpoint and leave.
    Leave,
    /// End at once.
    End,
    /// Say what the threads are doing.
    Threads,
}

impl Control {
    /// A rank that has nobody to tell.
    pub fn alone(activity: Arc<Activity>) -> Arc<Self> {
        Arc::new(Self { activity, connection: Mutex::new(None), ranks: OnceLock::new() })
    }

    /// Connects, and reports from now on. Lines of the log are passed on.
    ///
    /// # Errors
    /// When the launcher cannot be reached.
    pub fn connect(
        address: &Address,
        topology: &Topology,
        activity: Arc<Activity>,
        mut log: Option<RankLog>,
    ) -> Result<Arc<Self>> {
        let connection = reach(&address.launcher).with_context(|| {
            format!(
                "cannot reach the launcher at {} within {} s; expected that this host may connect to it. Look at names and \
                 firewalls between the hosts",
                address.launcher,
                CONNECT.as_secs()
            )
        })?;
        connection.set_nodelay(true)?;
        connection.set_write_timeout(Some(WRITE))?;
        connection.set_read_timeout(Some(address.silence))?;
        let orders = BufReader::new(connection.try_clone()?);
        let control = Self::alone(activity);
        *control.lock() = Some(connection);
        let Topology { rank, world_size, local_rank, .. } = *topology;
        control.say(&json!({ "say": "hello", "token": address.token, "rank": rank, "world_size": world_size,
            "local_rank": local_rank, "host": process::host(), "pid": std::process::id(),
            "start_ticks": trainer::checkpoint::start_ticks(std::process::id()) }));
        let (beating, obeying) = (Arc::clone(&control), Arc::clone(&control));
        thread::Builder::new().name("beats".into()).spawn(move || beating.beat(log.as_mut()))?;
        thread::Builder::new().name("orders".into()).spawn(move || obeying.obey(orders))?;
        Ok(control)
    }

    /// Whether there was a launcher to report to.
    pub fn has_launcher(&self) -> bool {
        self.lock().is_some()
    }

    /// From now on the end of the job is the end of all its ranks.
    pub fn joined(&self, ranks: Arc<dyn Collective>) {
        let _second_time = self.ranks.set(ranks);
    }

    /// Tells why this rank fails. `again` says whether another try may go better.
    pub fn failed(&self, message: &str, code: u8, is_panic: bool, again: bool) {
        // Where it fails is part of what is told: the last report may be a second old.
        self.say(&self.report());
        self.say(&json!({ "say": "failed", "message": message, "code": code, "panic": is_panic, "again": again }));
    }

    /// Tells that this rank ends in order.
    pub fn bye(&self, code: u8) {
        self.activity.enter(Phase::Leaving);
        self.say(&self.report());
        self.say(&json!({ "say": "bye", "code": code }));
    }

    /// Ends every rank, or this process where it has not joined others.
    pub fn end_job(&self, code: u8) -> ! {
        // Neither MPI nor libraries that are being taken down may keep this process alive.
        let _no_thread = thread::Builder::new().spawn(|| {
            thread::sleep(ABORT);
            kill_this();
        });
        match self.ranks.get().filter(|ranks| ranks.world_size() > 1) {
            Some(ranks) => ranks.abort(i32::from(code)),
            None => std::process::exit(i32::from(code)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A launcher that cannot be told is gone, which the reading side notices.
    fn say(&self, what: &Value) -> bool {
        let mut connection = self.lock();
        let Some(stream) = connection.as_mut() else { return false };
        let said = stream.write_all(format!("{what}\n").as_bytes()).is_ok();
        if !said {
            *connection = None;
        }
        said
    }

    fn report(&self) -> Value {
        let (place, calls, activity) = (self.activity.at(), self.activity.calls.standing(), &self.activity);
        json!({ "say": "beat", "phase": place.phase.words(), "stage": place.stage, "step": place.step,
            "can_save": place.phase.can_save(), "steps_made": place.steps_made, "own_s": place.own.as_secs_f64(),
            "call": calls.number, "operation": calls.operation, "is_inside": calls.is_inside,
            "reading": place.reading(), "idle_s": activity.idle().as_secs_f64(), "leaving": activity.is_to_leave(),
            "resident_bytes": process::resident_bytes() })
    }

    fn beat(&self, mut log: Option<&mut RankLog>) {
        let mut told = None;
        let mut last = Instant::now();
        loop {
            // Which phases follow one another within a step is no news.
            let place = self.activity.at();
            let now =
                (place.phase.can_save() && place.phase != Phase::Checkpoint, place.stage, self.activity.is_to_leave());
            if told.as_ref() != Some(&now) || last.elapsed() >= BEAT {
                (told, last) = (Some(now), Instant::now());
                self.say(&self.report());
            }
            if let Some(log) = &mut log {
                let lines = log.new_lines();
                if !lines.is_empty() {
                    self.say(&json!({ "say": "lines", "lines": lines, "offset": log.offset() }));
                }
                log.rotate_if_long();
            }
            thread::sleep(TICK);
        }
    }

    fn obey(&self, orders: BufReader<TcpStream>) {
        for line in orders.lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(Order::Leave) => self.activity.ask_to_leave(),
                Ok(Order::End) => kill_this(),
                Ok(Order::Threads) => {
                    self.say(&json!({ "say": "threads", "text": process::threads() }));
                }
                // What a newer launcher says besides is no order.
                Ok(Order::Ping) | Err(_) => {}
            }
        }
        if self.activity.at().phase == Phase::Leaving {
            return;
        }
        let _closed = writeln!(std::io::stderr(), "the launcher is gone: ending the job");
        self.end_job(ERROR);
    }
}

fn reach(launcher: &str) -> std::io::Result<TcpStream> {
    let until = Instant::now() + CONNECT;
    loop {
        let addresses: Vec<SocketAddr> = launcher.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        let tries = addresses.iter().map(|address| TcpStream::connect_timeout(address, Duration::from_secs(5)));
        let mut error = std::io::Error::new(std::io::ErrorKind::NotFound, "its name has no address");
        for tried in tries {
            match tried {
                Ok(connection) => return Ok(connection),
                Err(failed) => error = failed,
            }
        }
        if Instant::now() >= until {
            return Err(error);
        }
        thread::sleep(TICK);
    }
}
