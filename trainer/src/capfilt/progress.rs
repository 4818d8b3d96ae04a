//! How far rank 0 is with its share of the shards, which stands for all ranks.

use std::time::Instant;

use cluster::Collective;

use crate::events::{Event, Events};

/// Tells of progress.
pub(super) struct Progress {
    name: String,
    events: Events,
    shards: u64,
    ranks: usize,
    started: Instant,
    images: u64,
    /// Images of the shards before the one that is being made.
    images_before: u64,
}

impl Progress {
    /// Begins to tell of `shards` shards of this rank; `kept` ones were there already.
    pub fn new(task: &str, shards: usize, kept: u64, ranks: &dyn Collective, events: Events) -> Self {
        let name = task.trim_start_matches("data_").to_owned();
        let share = match ranks.world_size() {
            1 => String::new(),
            world => format!(", the share of rank 0 of {world}"),
        };
        let kept = if kept > 0 { format!("; {kept} shards are there already") } else { String::new() };
        let what = format!("{shards} shards{share}{kept}");
        let (shards, ranks) = (shards as u64, ranks.world_size());
        events.send(&Event::Phase { name: name.clone(), what, steps: shards });
        Self { name, events, shards, ranks, started: Instant::now(), images: 0, images_before: 0 }
    }

    /// So many images of the shard with this number were seen.
    pub fn images(&mut self, shard: usize, images: u64) {
        self.images = self.images_before + images;
        self.tell(shard as u64);
    }

    /// So many shards are made.
    pub fn shard(&mut self, shards: usize) {
        self.images_before = self.images;
        self.tell(shards as u64);
    }

    fn tell(&self, step: u64) {
        let rate = self.images as f64 / self.started.elapsed().as_secs_f64().max(1e-9) * self.ranks as f64;
        let (name, steps, losses) = (self.name.clone(), self.shards, serde_json::Map::new());
        self.events.send(&Event::Progress { name, step, steps, losses, lr: None, images_per_s: Some(rate) });
    }
}
