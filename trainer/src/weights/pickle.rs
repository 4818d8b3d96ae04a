//! The pickle inside a PyTorch checkpoint, read without running anything: dictionaries of tensors, and nothing else is
//! ever built.
//!
//! A pickle is a small program. The ones that PyTorch writes make tensors by calling a handful of functions; those are
//! known here by name and understood, and any other name is an error. Values live in one list and refer to each other
//! by number, so neither depth nor cycles cost stack.

use std::collections::BTreeMap;

use safetensors::Dtype;

/// The functions and types that a checkpoint of tensors names.
const KNOWN: [(&str, &str); 4] = [
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("collections", "OrderedDict"),
    ("torch", "Size"),
];
/// Names of dictionaries that hold a model beside other things.
const WRAPPERS: [&str; 4] = ["model", "module", "state_dict", "model_state_dict"];

/// A tensor of the checkpoint: a part of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The storage's name in the archive.
    pub key: String,
    pub dtype: Dtype,
    /// Numbers before the tensor's first in its storage.
    pub offset: u64,
    pub shape: Vec<usize>,
    /// Whether its numbers stand one behind the other.
    pub is_contiguous: bool,
}

type Id = usize;

#[derive(Clone, Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Mark,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(&'static str),
    StorageType(Dtype),
    Storage { key: String, dtype: Dtype },
    Tensor(Record),
}

/// The tensors of a pickled checkpoint by name: those of the model where it lies beside other things.
///
/// # Errors
/// When the pickle names anything but tensors, or is damaged.
pub(super) fn tensors(pickle: &[u8]) -> Result<BTreeMap<String, Record>, String> {
    let mut machine = Machine { bytes: pickle, at: 0, values: Vec::new(), stack: Vec::new(), memo: BTreeMap::new() };
    let top = machine.run()?;
    let found = machine.dictionary(top).ok_or("it holds no dictionary of tensors")?;
    let inner = WRAPPERS.iter().find_map(|name| machine.dictionary(*found.get(*name)?));
    let tensors: BTreeMap<String, Record> = inner
        .unwrap_or(found)
        .into_iter()
        .filter_map(|(name, id)| match &machine.values[id] {
            Value::Tensor(record) => Some((name, record.clone())),
            _ => None,
        })
        .collect();
    if tensors.is_empty() { Err("it holds no dictionary of tensors".into()) } else { Ok(tensors) }
}

struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: BTreeMap<u64, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let code = self.take(1)?[0];
            match code {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.push(Value::Mark),
                b'0' => drop(self.pop()?),
                b'N' => self.push(Value::None),
                0x88 | 0x89 => self.push(Value::Bool),
                b'K' => self.integer(1)?,
                b'M' => self.integer(2)?,
                b'J' => self.integer(4)?,
                0x8a => {
                    let length = usize::from(self.take(1)?[0]);
                    self.integer(length)?;
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Float);
                }
                b'X' | b'T' | b'B' => self.text(4)?,
                0x8c | b'U' | b'C' => self.text(1)?,
                0x8d => self.text(8)?,
                b'}' => self.push(Value::Dict(Vec::new())),
                b']' => self.push(Value::List(Vec::new())),
                b')' => self.push(Value::Tuple(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items));
                }
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::List(items));
                }
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(code - 0x84))?;
                    self.push(Value::Tuple(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set(&items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set(&items)?;
                }
                b'q' => {
                    let place = self.number(1)?;
                    self.remember(place)?;
                }
                b'r' => {
                    let place = self.number(4)?;
                    self.remember(place)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let place = self.number(1)?;
                    self.recall(place)?;
                }
                b'j' => {
                    let place = self.number(4)?;
                    self.recall(place)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let known = global(&module, &name)?;
                    self.push(known);
                }
                0x93 => {
                    let names = self.pop_many(2)?;
                    let [module, name] = [0, 1].map(|place| self.text_of(names[place]).map(str::to_owned));
                    let known = global(&module.ok_or("a name is no text")?, &name.ok_or("a name is no text")?)?;
                    self.push(known);
                }
                b'Q' => self.storage()?,
                b'R' | 0x81 => self.call()?,
                // What a function's result is given besides; tensors need none of it.
                b'b' => drop(self.pop()?),
                other => return Err(format!("it uses the instruction {other:#04x} at byte {}", self.at - 1)),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let part = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let part =
            part.ok_or_else(|| format!("it ends at byte {} in the middle of an instruction", self.bytes.len()))?;
        self.at += count;
        Ok(part)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A signed number of up to eight bytes.
    fn integer(&mut self, bytes: usize) -> Result<(), String> {
        if bytes > 8 {
            return Err("it holds a number of more than 64 bits".into());
        }
        let number = self.number(bytes)?;
        let shift = 64 - 8 * bytes as u32;
        // Numbers of one and two bytes have no sign.
        let signed = match bytes {
            0 => 0,
            1 | 2 => number.cast_signed(),
            _ => (number << shift).cast_signed() >> shift,
        };
        self.push(Value::Int(signed));
        Ok(())
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = usize::try_from(self.number(length_bytes)?).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends in the middle of a name")?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.stack.pop().ok_or_else(|| "it takes a value that is not there".into())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let from = self.stack.len().checked_sub(count).ok_or("it takes values that are not there")?;
        Ok(self.stack.split_off(from))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.stack.iter().rposition(|id| matches!(self.values[*id], Value::Mark));
        let items = self.stack.split_off(mark.ok_or("it lacks a mark")? + 1);
        self.stack.pop();
        Ok(items)
    }

    fn top(&mut self) -> Result<&mut Value, String> {
        let id = *self.stack.last().ok_or("it changes a value that is not there")?;
        Ok(&mut self.values[id])
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Value::List(list) => list.extend(items),
            other => return Err(format!("it appends to {other:?}")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        match self.top()? {
            Value::Dict(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            other => return Err(format!("it sets an item of {other:?}")),
        }
        Ok(())
    }

    fn remember(&mut self, place: u64) -> Result<(), String> {
        let id = *self.stack.last().ok_or("it remembers a value that is not there")?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u64) -> Result<(), String> {
        let id = *self.memo.get(&place).ok_or("it recalls what it has not remembered")?;
        self.stack.push(id);
        Ok(())
    }

    fn text_of(&self, id: Id) -> Option<&str> {
        match &self.values[id] {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn items_of(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn int_of(&self, id: Id) -> Option<i64> {
        match self.values[id] {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    /// The texts that a dictionary has as keys, with their values.
    fn dictionary(&self, id: Id) -> Option<BTreeMap<String, Id>> {
        match &self.values[id] {
            Value::Dict(pairs) => {
                Some(pairs.iter().filter_map(|(key, value)| Some((self.text_of(*key)?.to_owned(), *value))).collect())
            }
            _ => None,
        }
    }

    /// `("storage", type, key, device, numbers)` becomes the storage.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = self.items_of(id).and_then(|items| {
            let Value::StorageType(dtype) = self.values[*items.get(1)?] else { return None };
            let is_storage = self.text_of(*items.first()?)? == "storage";
            is_storage.then_some(Value::Storage { key: self.text_of(*items.get(2)?)?.to_owned(), dtype })
        });
        let storage = storage.ok_or("it refers to something outside that is no storage of numbers")?;
        self.push(storage);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let [function, arguments] = self.pop_many(2)?[..] else { unreachable!("invariant: two were asked for") };
        let result = match &self.values[function] {
            Value::Global("_rebuild_tensor_v2") => {
                Value::Tensor(self.tensor(arguments).ok_or("it makes a tensor of something else than a storage")?)
            }
            Value::Global("_rebuild_parameter") => {
                let first = self.items_of(arguments).and_then(|items| items.first());
                match first.map(|id| &self.values[*id]) {
                    Some(Value::Tensor(record)) => Value::Tensor(record.clone()),
                    _ => return Err("it makes a parameter of something else than a tensor".into()),
                }
            }
            Value::Global("OrderedDict") => Value::Dict(Vec::new()),
            Value::Global("Size") => Value::None,
            other => return Err(format!("it calls {other:?}")),
        };
        self.push(result);
        Ok(())
    }

    /// `(storage, offset, shape, stride, …)` as a tensor.
    fn tensor(&self, arguments: Id) -> Option<Record> {
        let [storage, offset, shape, stride, ..] = self.items_of(arguments)? else { return None };
        let Value::Storage { key, dtype } = &self.values[*storage] else { return None };
        let numbers = |id: Id| -> Option<Vec<usize>> {
            self.items_of(id)?.iter().map(|id| usize::try_from(self.int_of(*id)?).ok()).collect()
        };
        let (shape, stride) = (numbers(*shape)?, numbers(*stride)?);
        let mut step = 1_usize;
        let mut is_contiguous = shape.len() == stride.len();
        for (side, found) in shape.iter().zip(&stride).rev() {
            is_contiguous &= *side == 1 || *found == step;
            step = step.checked_mul(*side)?;
        }
        let offset = u64::try_from(self.int_of(*offset)?).ok()?;
        Some(Record { key: key.clone(), dtype: *dtype, offset, shape, is_contiguous })
    }
}

/// What a name stands for.
fn global(module: &str, name: &str) -> Result<Value, String> {
    let types = [
        ("FloatStorage", Dtype::F32),
        ("HalfStorage", Dtype::F16),
        ("BFloat16Storage", Dtype::BF16),
        ("DoubleStorage", Dtype::F64),
        ("LongStorage", Dtype::I64),
        ("IntStorage", Dtype::I32),
        ("ShortStorage", Dtype::I16),
        ("CharStorage", Dtype::I8),
        ("ByteStorage", Dtype::U8),
        ("BoolStorage", Dtype::BOOL),
    ];
    if let Some((_, dtype)) = types.iter().find(|(known, _)| module == "torch" && *known == name) {
        return Ok(Value::StorageType(*dtype));
    }
    let known = KNOWN.iter().find(|known| **known == (module, name));
    known.map(|(_, name)| Value::Global(name)).ok_or_else(|| {
        format!("it names {module}.{name}, which has no place in a file of tensors; nothing of it was run")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `torch.save({"model": OrderedDict(a=…, b=…), "epoch": 3})` pickles, by hand.
    fn checkpoint() -> Vec<u8> {
        let mut bytes = b"\x80\x02}q\x00(".to_vec();
        let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        let tensor = |key: &str, kind: &str, shape: &[u8], stride: &[u8], offset: u8| {
            let numbers = |values: &[u8]| {
                let mut out = b"(".to_vec();
                values.iter().for_each(|value| out.extend([b'K', *value]));
                out.push(b't');
                out
            };
            let storage = [
                b"((".to_vec(),
                text("storage"),
                format!("ctorch\n{kind}\n").into_bytes(),
                text(key),
                text("cpu"),
                b"K\x0ctQ".to_vec(),
            ]
            .concat();
            let arguments = [
                storage,
                vec![b'K', offset],
                numbers(shape),
                numbers(stride),
                b"\x89".to_vec(),
                b"ccollections\nOrderedDict\n)R".to_vec(),
            ];
            [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments.concat(), b"tR".to_vec()].concat()
        };
        bytes.extend(text("model"));
        bytes.extend(b"ccollections\nOrderedDict\n)Rq\x01(");
        bytes.extend([text("a"), tensor("0", "FloatStorage", &[2, 3], &[3, 1], 0)].concat());
        bytes.extend([text("b"), tensor("1", "HalfStorage", &[3, 2], &[1, 3], 6)].concat());
        bytes.extend(b"u");
        bytes.extend([text("epoch"), b"K\x03".to_vec()].concat());
        bytes.extend(b"u.");
        bytes
    }

    #[test]
    fn a_checkpoint_is_understood() {
        let found = tensors(&checkpoint()).unwrap();
        let record = |key: &str, dtype, offset, shape: &[usize], is_contiguous| Record {
            key: key.into(),
            dtype,
            offset,
            shape: shape.to_vec(),
            is_contiguous,
        };
        assert_eq!(found["a"], record("0", Dtype::F32, 0, &[2, 3], true));
        assert_eq!(found["b"], record("1", Dtype::F16, 6, &[3, 2], false));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn code_is_named_and_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("ran").display().to_string();
        let evil = format!("\u{2}cposix\nsystem\n(X{}touch {witness}tR.", "");
        let mut bytes = vec![0x80];
        bytes.extend(evil.as_bytes());
        let message = tensors(&bytes).unwrap_err();
        assert!(message.contains("posix.system") && message.contains("nothing of it was run"), "{message}");
        assert!(!std::path::Path::new(&witness).exists());
        for name in ["builtins\neval\n", "torch\nload\n", "os\nsystem\n", "torch._utils\n_rebuild_qtensor\n"] {
            assert!(tensors(format!("c{name}.").as_bytes()).unwrap_err().contains("nothing of it was run"));
        }
    }

    #[test]
    fn damaged_pickles_are_errors() {
        let whole = checkpoint();
        for length in 0..whole.len() {
            assert!(tensors(&whole[..length]).is_err(), "{length} bytes");
        }
        // Any byte may be any other: never a panic.
        for place in 0..whole.len() {
            for byte in [0, b'(', b't', b'R', b'.', b'u', b'Q', 0x87, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = byte;
                let _ = tensors(&bytes);
            }
        }
        // A deep nest costs no stack.
        let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
        assert!(tensors(&deep).unwrap_err().contains("no dictionary"));
    }
}
