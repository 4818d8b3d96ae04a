//! The slices of each step: read, put through the frozen image encoder, laid out. Those of the next step are given to the encoder
//! while this one is computed: where the processor has waited for a GPU, which has nothing to do until more is launched.

use configs::{Run, Stage};
use data_pipeline::rng::{CounterRng, Purpose};
use tch::Tensor;

use crate::TrainerError;
use crate::ahead::{self, Ahead};
use crate::batches;
use crate::feed::Feed;
use crate::model::image_tower::Share;
use crate::parts::Part;
use crate::precision::compute_kind;
use crate::slices::SliceMap;
use crate::state::State;
use crate::step::{Slice, StepKey};
use crate::text::Encoded;
use crate::towers::Towers;
use crate::trained_image_encoder;

/// Where the slices of a stage come from.
pub struct Reader<'a> {
    run: &'a Run,
    stage: &'a Stage,
    towers: &'a Towers,
    map: &'a SliceMap<'a>,
    feed: Feed,
    encoder: Ahead<'a>,
    /// What was read for the step that follows, or why it could not be.
    ahead: Option<Result<Vec<Read>, TrainerError>>,
}

/// An own slice that was read.
struct Read {
    index: usize,
    samples: Vec<u64>,
    image_ids: Option<Tensor>,
    tokens: Encoded,
    images: Images,
}

/// The images of a slice, on the device.
enum Images {
    /// On their way through the frozen encoder.
    Frozen(ahead::Images),
    /// `[b, 3, S, S]`, where the encoder is trained: its weights change until the slice is used.
    Pixels(Tensor),
}

impl<'a> Reader<'a> {
    /// Of the slices that `feed` delivers.
    ///
    /// # Errors
    /// None in practice: the frozen encoder fits the run.
    pub fn new(
        run: &'a Run,
        stage: &'a Stage,
        towers: &'a Towers,
        map: &'a SliceMap<'a>,
        feed: Feed,
    ) -> Result<Self, TrainerError> {
        let encoder = towers.image_encoder.ahead(run, towers.device)?;
        Ok(Self { run, stage, towers, map, feed, encoder, ahead: None })
    }

    /// Where samples come from; counts are those of the steps whose slices were taken.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The own slices of a step. Every rank takes part, as texts are padded alike.
    ///
    /// # Errors
    /// When the data stops, or ranks cannot talk.
    pub fn slices(&mut self, state: &State, key: StepKey) -> Result<Vec<Slice>, TrainerError> {
        let read = match self.ahead.take() {
            Some(read) => read?,
            None => self.read(key)?,
        };
        self.feed.count_all()?;
        // All slices are padded alike: to the longest text of the global batch.
        let longest = |one: &Read| Tensor::from_slice(&one.tokens.longest().map(|length| length as i64));
        let lengths = self.map.gather(&read.iter().map(longest).collect::<Vec<_>>())?;
        let most = |place: i64| lengths.iter().map(|both| both.int64_value(&[place])).max().unwrap_or(1) as usize;
        let lengths = [most(0), most(1), most(2)];
        if self.stage.train_image_encoder() {
            // The update of the step before has changed the weights since copies of them were taken.
            state.begin_step(compute_kind(self.run.model.qformer.dtype, self.towers.device));
        }
        read.into_iter().map(|one| self.slice(one, state, lengths)).collect()
    }

    /// Reads the slices of the step that follows, unless that was done, and gives them to the frozen encoder until they have come
    /// so far through it; they wait for [`Reader::slices`]. Nothing where the stage has no such step or trains the encoder, or where
    /// this rank was asked to leave after the present step. What goes wrong is told when the slices are taken. Only this rank takes
    /// part. The present step waits for the samples, as the next one would.
    pub fn encode_ahead(&mut self, key: StepKey, share: Share) {
        if key.step >= self.stage.steps() || self.stage.train_image_encoder() || self.feed.is_to_leave() {
            return;
        }
        if self.ahead.is_none() {
            // Checkpoints and reports of the present step are to count no sample of the next one.
            self.feed.hold_counts();
            self.ahead = Some(self.read(key));
        }
        let _time = self.map.time(Part::ImageEncoder);
        let here = self.map.tells_apart();
        let pass = |one: Read| match one.images {
            Images::Frozen(images) => Read { images: Images::Frozen(self.encoder.pass(images, share, here)), ..one },
            Images::Pixels(_) => one,
        };
        self.ahead = self.ahead.take().map(|read| Ok(read?.into_iter().map(pass).collect()));
    }

    fn read(&mut self, key: StepKey) -> Result<Vec<Read>, TrainerError> {
        self.map.own().map(|index| self.read_one(index, key)).collect()
    }

    fn read_one(&mut self, index: usize, key: StepKey) -> Result<Read, TrainerError> {
        let Self { run, stage, towers, map, .. } = *self;
        let mut batch = {
            let _time = map.time(Part::DataWait);
            self.feed.next_batch()?
        };
        if run.data.shuffle_captions {
            let others = batch.captions.len().saturating_sub(1).max(1) as u64;
            let key = [batch.step, batch.slice];
            let turn = 1 + CounterRng::new(run.run.seed, Purpose::Caption, &key).below(others) as usize;
            let length = batch.captions.len();
            batch.captions.rotate_left(turn % length.max(1));
        }
        let cut = |caption: usize| {
            CounterRng::new(run.run.seed, Purpose::Prefix, &[key.stage, key.step, batch.samples[caption]])
        };
        let tokens = towers.encode_texts(stage, &batch.questions, &batch.captions, cut);
        let pixels = batches::pixels(&batch, run.data.image_size, towers.device);
        let images = match stage.train_image_encoder() {
            true => Images::Pixels(pixels),
            false => {
                let _time = map.time(Part::ImageEncoder);
                Images::Frozen(self.encoder.begin(&pixels))
            }
        };
        let by_image = matches!(stage, Stage::Representation(stage) if stage.match_by_image_id);
        let image_ids = by_image.then(|| batches::image_ids(&batch, towers.device));
        Ok(Read { index, image_ids, tokens, images, samples: batch.samples })
    }

    fn slice(&self, read: Read, state: &State, lengths: [usize; 3]) -> Result<Slice, TrainerError> {
        let Read { index, samples, image_ids, tokens, images } = read;
        let time = self.map.time(Part::ImageEncoder);
        let (patches, pixels) = match images {
            Images::Frozen(images) => (self.encoder.end(images), None),
            Images::Pixels(pixels) => (trained_image_encoder::encode(state, &self.run.model, &pixels)?, Some(pixels)),
        };
        drop(time);
        let words = batches::words(&tokens, lengths, self.towers.device);
        Ok(Slice { index, patches, pixels, words, samples, image_ids })
    }
}
