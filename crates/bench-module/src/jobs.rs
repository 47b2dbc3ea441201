//! The jobs.

use std::time::Instant;

use prost::Message;
use proto::v1::to_filter::Message as ToFilter;
use proto::view::PoolUpdate;
use router_core::Millis;
use router_core::hash::SequenceHash;
use router_core::router::{Prompt, Router};
use tokenizer::{EncodeError, Library, LoadError, Tokenizer};

/// What earlier jobs left.
pub(crate) struct Jobs {
    tokenizer: Option<Loaded>,
    router: Router,
    seed: u64,
}

/// Encodes a text, without special tokens around it.
type Loaded = Box<dyn Fn(&str, &mut Vec<u32>) -> Result<(), EncodeError>>;

impl Default for Jobs {
    fn default() -> Self {
        let mut router = Router::new(u64::MAX);
        router.link_up();
        Self {
            tokenizer: None,
            router,
            seed: 0,
        }
    }
}

type Answer = Result<String, String>;

impl Jobs {
    pub(crate) fn run(&mut self, job: &str, body: Vec<u8>) -> Answer {
        match job {
            "/load" => self.load(|| {
                let tokenizer = Tokenizer::load(body)?;
                Ok(Box::new(move |text, ids| tokenizer.encode_into(text, false, ids)))
            }),
            "/load-json" => self.load(|| {
                let library = Library::from_json(&body)?;
                Ok(Box::new(move |text, ids| library.encode_into(text, false, ids)))
            }),
            "/encode" => self.encode(&body),
            "/apply" => self.apply(&body),
            "/decide" => self.decide(&body),
            _ => Err(format!("no job {job}")),
        }
    }

    /// The tokenizer before it goes first, as it does in the filter.
    fn load(&mut self, load: impl FnOnce() -> Result<Loaded, LoadError>) -> Answer {
        self.tokenizer = None;
        let start = Instant::now();
        let tokenizer = load().map_err(|error| error.to_string())?;
        let ns = start.elapsed().as_nanos();
        self.tokenizer = Some(tokenizer);
        Ok(format!(r#"{{"ns":{ns},"memory":{}}}"#, memory()))
    }

    fn encode(&mut self, body: &[u8]) -> Answer {
        let encode = self.tokenizer.as_ref().ok_or("no tokenizer is loaded")?;
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        let mut ids = Vec::new();
        let start = Instant::now();
        let encoded = encode(text, &mut ids);
        let ns = start.elapsed().as_nanos();
        encoded.map_err(|error| error.to_string())?;
        let tokens = ids.len();
        Ok(format!(r#"{{"ns":{ns},"memory":{},"tokens":{tokens}}}"#, memory()))
    }

    /// Decoding is part of it, as in the filter.
    fn apply(&mut self, body: &[u8]) -> Answer {
        let start = Instant::now();
        let pool = apply(&mut self.router, body)?;
        let ns = start.elapsed().as_nanos();
        let entries = self.router.replica(&pool).map_or(0, |replica| replica.view().len());
        Ok(format!(r#"{{"ns":{ns},"memory":{},"entries":{entries}}}"#, memory()))
    }

    /// In the one pool that there is, at no load.
    fn decide(&mut self, body: &[u8]) -> Answer {
        let pool = self.router.pools().next().ok_or("no fleet")?;
        let (name, block_size) = (pool.name.clone(), u64::from(pool.layout.block_size.get()));
        let loads = vec![router_core::cost::SlotLoad::default(); pool.candidates.len()];
        let (words, _) = body.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let mut times = Vec::new();
        while let Some(count) = words.next() {
            let mut hash = || Some(u64::from(words.next()?) | u64::from(words.next()?) << 32);
            let blocks: Vec<_> = (0..count).map_while(|_| hash()).map(SequenceHash).collect();
            self.seed += 1;
            let prompt = Prompt::Known {
                input_tokens: blocks.len() as u64 * block_size + 1,
                blocks: &blocks,
            };
            let start = Instant::now();
            let decision = self.router.decide(&name, prompt, &loads, Millis(0), self.seed);
            times.push(start.elapsed().as_nanos().to_string());
            if decision.footing != router_core::ladder::Footing::EXACT {
                return Err(format!("not exact: {:?}", decision.footing));
            }
        }
        Ok(format!(r#"{{"ns":[{}]}}"#, times.join(",")))
    }
}

/// Applies a message as the filter does; returns the name of the pool that it was about, the first of a fleet.
fn apply(router: &mut Router, body: &[u8]) -> Result<String, String> {
    let message = proto::v1::ToFilter::decode(body).map_err(|error| error.to_string())?;
    let update: Result<PoolUpdate, _> = match message.message.ok_or("an empty message")? {
        ToFilter::Fleet(fleet) => {
            router.set_fleet(fleet.try_into().map_err(|bad: proto::BadMessage| bad.to_string())?);
            return Ok(router.pools().next().map(|pool| pool.name.clone()).unwrap_or_default());
        }
        ToFilter::SnapshotBegin(begin) => begin.try_into(),
        ToFilter::SnapshotPart(part) => part.try_into(),
        ToFilter::SnapshotEnd(end) => Ok(end.into()),
        ToFilter::Delta(delta) => delta.try_into(),
        _ => return Err("not about fleet or views".to_owned()),
    };
    let PoolUpdate { pool, update } = update.map_err(|bad| bad.to_string())?;
    router.apply(&pool, update).map_err(|out| out.reason().to_owned())?;
    Ok(pool)
}

/// Size of the linear memory in bytes; 0 where there is none.
fn memory() -> usize {
    #[cfg(target_arch = "wasm32")]
    return core::arch::wasm32::memory_size::<0>() << 16;
    #[cfg(not(target_arch = "wasm32"))]
    0
}
