//! Questions about the index, so that anyone can check it from outside: `/v1/overlap` and `/v1/blocks`.
//!
//! Hashes are written as decimal text, as they do not fit the numbers of most JSON readers.

use std::str::FromStr;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use router_core::hash::{HashSeed, SequenceHash, local_hashes, sequence_hashes};
use router_core::levels::Overlap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, PoolStatus};
use crate::discovery::Rank;
use crate::index::Block;

/// Longest list of hashes that a question may have, and most blocks of a prompt.
const MAX_HASHES: usize = 100_000;
/// Largest question in bytes: as many tokens as any model takes.
pub(super) const MAX_BODY_BYTES: usize = 32 << 20;
/// Blocks that are asked of the pool's task at once, so that it is not held up.
const BLOCKS_AT_ONCE: u32 = 4096;

/// Why a question has no answer.
pub(super) struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    fn unknown(why: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, why.into())
    }

    fn stopping() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "the control plane is stopping".to_owned(),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// A prompt as it stands in a query: lists have commas between.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueriedPrompt {
    pool: Option<String>,
    model: Option<String>,
    /// Sequence hashes from the root on.
    hashes: Option<String>,
    token_ids: Option<String>,
    lora: Option<String>,
    cache_salt: Option<String>,
}

/// A prompt as it stands in a body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prompt {
    /// The pool by name, or by `model`.
    pool: Option<String>,
    /// What a request would say; the name of an adapter stands for the adapter.
    model: Option<String>,
    token_ids: Vec<u32>,
    /// Adapter, where `model` does not say.
    lora: Option<String>,
    /// Cache namespace.
    cache_salt: Option<String>,
}

pub(super) async fn overlap_of_query(
    State(admin): State<Admin>,
    Query(queried): Query<QueriedPrompt>,
) -> Result<Json<Value>, Refusal> {
    let QueriedPrompt {
        pool,
        model,
        hashes,
        token_ids,
        lora,
        cache_salt,
    } = queried;
    match (hashes, token_ids) {
        // Hashes say of themselves what adapter and namespace are.
        (Some(hashes), None) if lora.is_none() && cache_salt.is_none() => {
            let (pool, _) = asked(&admin, pool.as_deref(), model.as_deref())?;
            overlap(pool, numbers("hashes", 64, &hashes)?.map(SequenceHash).collect()).await
        }
        (Some(_), None) => Err(Refusal::bad("lora and cache_salt are of token_ids, not of hashes")),
        (None, Some(token_ids)) => {
            let prompt = Prompt {
                pool,
                model,
                token_ids: numbers("token_ids", 32, &token_ids)?.collect(),
                lora,
                cache_salt,
            };
            overlap_of_prompt(State(admin), Json(prompt)).await
        }
        _ => Err(Refusal::bad("one of hashes and token_ids is needed, not both")),
    }
}

pub(super) async fn overlap_of_prompt(
    State(admin): State<Admin>,
    Json(prompt): Json<Prompt>,
) -> Result<Json<Value>, Refusal> {
    let (pool, lora) = asked(&admin, prompt.pool.as_deref(), prompt.model.as_deref())?;
    let lora = prompt.lora.as_deref().or(lora);
    let seed = HashSeed::new(lora, prompt.cache_salt.as_deref());
    if prompt.token_ids.len() / pool.layout.tokens_per_block() > MAX_HASHES {
        return Err(Refusal::bad(format!("token_ids: more than {MAX_HASHES} blocks")));
    }
    let hashes = sequence_hashes(local_hashes(&prompt.token_ids, pool.layout, seed));
    overlap(pool, hashes).await
}

/// Unsigned numbers of so many bits, in decimal.
fn numbers<T: FromStr>(key: &str, bits: u32, list: &str) -> Result<impl Iterator<Item = T>, Refusal> {
    let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
    let number = |text: &str| {
        let no_number = |_| Refusal::bad(format!("{key}: {text:?} is no unsigned {bits}-bit number in decimal"));
        text.parse().map_err(no_number)
    };
    texts.map(number).collect::<Result<Vec<T>, _>>().map(Vec::into_iter)
}

/// The pool, and the adapter if a model's name says one.
fn asked<'a>(
    admin: &'a Admin,
    pool: Option<&str>,
    model: Option<&str>,
) -> Result<(&'a PoolStatus, Option<&'a str>), Refusal> {
    match (pool, model) {
        (Some(pool), None) => Ok((pool_of(admin, pool)?, None)),
        (None, Some(model)) => pool_of_model(admin, model),
        _ => Err(Refusal::bad("one of pool and model is needed, not both")),
    }
}

fn pool_of<'a>(admin: &'a Admin, name: &str) -> Result<&'a PoolStatus, Refusal> {
    let known = || admin.pools.iter().map(|pool| &*pool.handle.name);
    admin
        .pools
        .iter()
        .find(|pool| *pool.handle.name == *name)
        .ok_or_else(|| {
            let known: Vec<_> = known().collect();
            Refusal::unknown(format!("pool {name:?} is unknown; known: {}", known.join(", ")))
        })
}

fn pool_of_model<'a>(admin: &'a Admin, model: &str) -> Result<(&'a PoolStatus, Option<&'a str>), Refusal> {
    let found = admin.pools.iter().find_map(|pool| {
        let served = pool.models.iter().find(|served| served.name == model)?;
        Some((pool, served.lora.as_deref()))
    });
    found.ok_or_else(|| Refusal::unknown(format!("model {model:?} is served by no pool")))
}

async fn overlap(pool: &PoolStatus, hashes: Vec<SequenceHash>) -> Result<Json<Value>, Refusal> {
    if hashes.len() > MAX_HASHES {
        return Err(Refusal::bad(format!("hashes: more than {MAX_HASHES}")));
    }
    let prompt_blocks = hashes.len();
    let depths = pool.handle.depths(hashes).await.ok_or_else(Refusal::stopping)?;
    let shown = |rank: &Rank| {
        let overlap = pool.levels.overlap(pool.levels.first_slot(rank.slot.0), &depths);
        let Overlap { device, host, disk } = overlap;
        let mut shown = json!({
            "endpoint": rank.endpoint, "dp_rank": rank.dp_rank,
            "blocks": overlap.blocks(), "device": device, "host": host, "disk": disk,
        });
        if let Some(instance) = rank.instance_id {
            shown["instance_id"] = instance.to_string().into();
        }
        shown
    };
    let ranks: Vec<_> = pool.ranks.list().iter().map(|member| shown(&member.rank)).collect();
    Ok(Json(json!({
        "pool": &*pool.handle.name, "prompt_blocks": prompt_blocks, "overlap": ranks,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlocksQuestion {
    pool: String,
    /// Or a Dynamo worker's instance id.
    endpoint: String,
    #[serde(default)]
    dp_rank: u32,
}

/// One JSON object for each line, so that it can be read as it comes.
pub(super) async fn blocks(
    State(admin): State<Admin>,
    Query(question): Query<BlocksQuestion>,
) -> Result<Response, Refusal> {
    let pool = pool_of(&admin, &question.pool)?;
    let is_asked = |rank: &Rank| {
        let names = [rank.endpoint.to_string(), rank.worker()];
        rank.dp_rank == question.dp_rank && names.contains(&question.endpoint)
    };
    let members = pool.ranks.list();
    let member = members.iter().find(|member| is_asked(&member.rank));
    let slot = member
        .ok_or_else(|| {
            let BlocksQuestion { endpoint, dp_rank, .. } = &question;
            Refusal::unknown(format!(
                "pool {:?} has no rank {dp_rank} at {endpoint:?}",
                question.pool
            ))
        })?
        .rank
        .slot;
    let handle = pool.handle.clone();
    let pages = stream::try_unfold(Some(0), move |from| {
        let handle = handle.clone();
        async move {
            let Some(from) = from else { return Ok(None) };
            let page = handle.blocks(slot, from, BLOCKS_AT_ONCE).await;
            let (blocks, next) = page.ok_or_else(|| std::io::Error::other("the control plane is stopping"))?;
            Ok::<_, std::io::Error>(Some((lines(&blocks), next)))
        }
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, Body::from_stream(pages)).into_response())
}

fn lines(blocks: &[Block]) -> Bytes {
    let line = |block: &Block| {
        let Block {
            hash,
            parent,
            engine,
            tier,
            depth,
            visible,
        } = block;
        let line = json!({
            "sequence_hash": hash.0.to_string(), "parent": parent.map(|parent| parent.0.to_string()),
            "engine_hash": engine.0.to_string(), "tier": tier.label(), "depth": depth, "visible": visible,
        });
        format!("{line}\n")
    };
    blocks.iter().map(line).collect::<String>().into()
}
