//! Taking over a run whose holder may live: who has gone is replaced at once, who lives is left alone.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::fresh;
use super::heartbeat::{Heart, Rhythm, Sign, Watch};
use super::holder::Holder;
use super::lease::{Lease, READS};
use super::log::{self, Appended, Entry, Event, Log, TakeOver};
use crate::error::{Result, TrainerError};
use crate::storage::{Created, Storage};

/// The config's name in the run's folder, until a take-over names another one.
pub(super) const CONFIG: &str = "config.yaml";

/// Who wants a run.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// The process that asks.
    pub holder: Holder,
    /// How often it beats then, and how long it watches others for a beat first.
    pub rhythm: Rhythm,
}

/// A value of the config that a run goes on with although it began with another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// As `--set` takes it: `stages[0].lr_schedule.peak`.
    pub key: String,
    /// The value until now, as YAML writes it on one line; empty when there was none.
    pub was: String,
    /// The value from now on; empty when there is none.
    pub is: String,
}

/// The run as a launch finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The config in force.
    pub config: String,
    /// Where launches changed it with leave, oldest first.
    pub accepted: Vec<Change>,
}

/// What a launch wants of the run that it takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terms {
    /// To go on under the config that is in force.
    GoOn,
    /// To go on under this launch's config, which differs in these values.
    Change(Vec<Change>),
    /// To begin anew under this launch's config; what there is is set aside.
    Fresh,
}

/// Takes over. `decide` is given the run, if there is one, and says on which terms; `say` is told what is waited for.
pub(super) fn claim(
    storage: &Arc<Storage>,
    claim: &Claim,
    config: &str,
    decide: &mut dyn FnMut(Option<&Standing>) -> Result<Terms>,
    say: &mut dyn FnMut(String),
) -> Result<Lease> {
    let nonce = log::nonce()?;
    let mut replaced = None;
    for _ in 0..READS {
        let seen = Log::read(storage)?;
        if let Some((number, epoch, entry_nonce, holder)) = seen.holder()
            && replaced != Some(number)
        {
            wait_until_gone(storage, claim, (epoch, entry_nonce), holder, say)?;
            replaced = Some(number);
            // It may have committed meanwhile, and others may have come.
            continue;
        }
        let stored = config_in_force(storage, &seen)?;
        let stored = stored.map(|config| Standing { config, accepted: seen.changes() });
        let terms = decide(stored.as_ref())?;
        let mut taken = TakeOver { holder: claim.holder.clone(), ..TakeOver::default() };
        match &terms {
            Terms::Fresh if stored.is_some() || seen.holder().is_some() => {
                taken.config = Some(write_config(storage, &nonce, config)?);
                taken.fresh = Some(fresh::free_folder(storage)?);
            }
            // Whoever comes second finds the other's, and decides again.
            _ if stored.is_none() => match storage.create(CONFIG, Bytes::from(config.to_owned())) {
                Ok(Created::Written) => {}
                Ok(Created::Taken) => continue,
                // An answer that was lost: what stands there, perhaps our own, is looked at as another's would be.
                Err(error) => match storage.read(CONFIG)? {
                    Some(_) => continue,
                    None => return Err(error),
                },
            },
            Terms::GoOn | Terms::Fresh => {}
            Terms::Change(changes) => {
                taken.config = Some(write_config(storage, &nonce, config)?);
                taken.changes.clone_from(changes);
            }
        }
        let epoch = seen.next_epoch();
        let entry = Entry::new(epoch, nonce.clone(), Event::TakeOver(Box::new(taken)));
        if let Appended::Done = log::append(storage, seen.next(), &entry)? {
            let heart = Heart::start(storage, (epoch, &nonce), claim.holder.clone(), claim.rhythm.every);
            return Lease::begin(storage, epoch, nonce, seen.next() + 1, Some(heart));
        }
    }
    Err(TrainerError::LogBusy { uri: storage.uri("log"), tries: READS })
}

/// Writes a config of its own name, which a take-over is about to give. A take-over that fails leaves it behind unused.
fn write_config(storage: &Storage, nonce: &str, config: &str) -> Result<String> {
    let name = format!("config-{nonce}.yaml");
    // Nobody else has the nonce: what is there was written by an earlier try.
    match storage.create(&name, Bytes::from(config.to_owned())) {
        Ok(Created::Written | Created::Taken) => Ok(name),
        Err(error) if storage.read(&name)?.is_none_or(|there| there != config) => Err(error),
        Err(_) => Ok(name),
    }
}

/// The config that the newest take-over which names one says, else the one that the run began with.
pub(super) fn config_in_force(storage: &Storage, log: &Log) -> Result<Option<String>> {
    let name = log.config().unwrap_or(CONFIG);
    let found = storage.read(name)?;
    if found.is_none() && name != CONFIG {
        return Err(TrainerError::Unsupported {
            found: format!("{} is missing, and the run log says that it is the run's config", storage.uri(name)),
            expected: "that file; bring it back from a backup".into(),
        });
    }
    Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Who holds the run and lives, in words; nothing where nobody does. Watches a holder that may live for as long as it may be
/// silent.
pub(super) fn living_holder(storage: &Storage, claim: &Claim) -> Result<Option<String>> {
    let seen = Log::read(storage)?;
    let Some((_, epoch, nonce, holder)) = seen.holder() else { return Ok(None) };
    match wait_until_gone(storage, claim, (epoch, nonce), holder, &mut |_| ()) {
        Ok(()) => Ok(None),
        Err(TrainerError::Held { holder, .. }) => Ok(Some(holder)),
        Err(error) => Err(error),
    }
}

/// Returns once the holder of a take-over counts as gone.
fn wait_until_gone(
    storage: &Storage,
    claim: &Claim,
    (epoch, nonce): (u64, &str),
    holder: &Holder,
    say: &mut dyn FnMut(String),
) -> Result<()> {
    if holder.gone(&claim.holder).is_some() {
        return Ok(());
    }
    let (watch, mut sign) = Watch::begin(storage, epoch, nonce, claim.rhythm)?;
    let silence = claim.rhythm.silence.as_secs_f64();
    if sign == Sign::Unknown {
        say(format!("{holder} held this run last and may live: watching its heartbeat for up to {silence:.0} s"));
    }
    loop {
        match sign {
            Sign::Left => return Ok(()),
            Sign::Lives => {
                return Err(TrainerError::Held { uri: storage.uri(""), holder: holder.to_string() });
            }
            Sign::Silent => {
                say(format!("{holder} has given no sign of life for {silence:.0} s: taking the run over"));
                return Ok(());
            }
            Sign::Unknown => {}
        }
        if let Some(why) = holder.gone(&claim.holder) {
            say(format!("{holder} is gone ({why}): taking the run over"));
            return Ok(());
        }
        sign = watch.look(storage)?;
    }
}
