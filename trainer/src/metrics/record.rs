//! The lines of a metrics file.

use std::fmt;
use std::time::SystemTime;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of the lines.
const SCHEMA_VERSION: u32 = 1;
/// Values whose names begin so are the losses.
const LOSS: &str = "loss/";

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64())
}

/// Where a launch begins to report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStart {
    schema_version: u32,
    /// Seconds since 1970.
    pub time: f64,
    /// The launch's name; names sort in the order of launches.
    pub launch: String,
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// The step of the first record that this launch may write.
    pub step: u64,
}

impl SessionStart {
    /// A launch that begins now.
    pub fn new(launch: &str, stage_index: usize, stage: &str, step: u64) -> Self {
        let (launch, stage) = (launch.to_owned(), stage.to_owned());
        Self { schema_version: SCHEMA_VERSION, time: now(), launch, stage_index, stage, step }
    }

    /// Whether the launch does `record`'s step again.
    pub(super) fn covers(&self, record: &Record) -> bool {
        (record.stage_index, record.step) >= (self.stage_index, self.step)
    }
}

/// What is reported about one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Seconds since 1970.
    pub time: f64,
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// The step within the stage.
    pub step: u64,
    /// Names and values: `loss/itc`, `loss/itm`, `loss/itg` or `loss/lm`, `loss/total`, `lr`, `images_per_s`,
    /// `grad_norm` …. The losses come first when a record is read back.
    pub values: Vec<(String, f64)>,
}

impl Record {
    /// A record of now.
    pub fn new(stage_index: usize, stage: &str, step: u64, values: Vec<(String, f64)>) -> Self {
        Self { time: now(), stage_index, stage: stage.to_owned(), step, values }
    }

    /// The value of this name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// The losses as a map of their own.
struct Losses<'a>(&'a [(String, f64)]);

impl Serialize for Losses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(LOSS)?, value))))
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema_version", &SCHEMA_VERSION)?;
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("stage_index", &self.stage_index)?;
        map.serialize_entry("stage", &self.stage)?;
        map.serialize_entry("step", &self.step)?;
        map.serialize_entry("losses", &Losses(&self.values))?;
        for (name, value) in self.values.iter().filter(|(name, _)| !name.starts_with(LOSS)) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A number, or NaN for `null`; anything else is from a newer version and left out.
fn number(value: &serde_json::Value) -> Option<f64> {
    if value.is_null() { Some(f64::NAN) } else { value.as_f64() }
}

/// Name-value pairs in the order of the file.
struct Pairs(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of losses")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    pairs.extend(number(&value).map(|value| (format!("{LOSS}{name}"), value)));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a metrics record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        use serde::de::Error;
        let (mut stage_index, mut stage, mut step) = (None, None, None);
        let (mut time, mut losses, mut rest) = (f64::NAN, Vec::new(), Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "schema_version" => drop(map.next_value::<serde_json::Value>()?),
                "time" => time = map.next_value()?,
                "stage_index" => stage_index = Some(map.next_value()?),
                "stage" => stage = Some(map.next_value()?),
                "step" => step = Some(map.next_value()?),
                "losses" => losses = map.next_value::<Pairs>()?.0,
                _ => rest.extend(number(&map.next_value()?).map(|value| (key, value))),
            }
        }
        losses.extend(rest);
        Ok(Record {
            time,
            stage_index: stage_index.ok_or_else(|| A::Error::missing_field("stage_index"))?,
            stage: stage.ok_or_else(|| A::Error::missing_field("stage"))?,
            step: step.ok_or_else(|| A::Error::missing_field("step"))?,
            values: losses,
        })
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor)
    }
}
