//! The HTTP endpoints for people and monitors.

pub mod metrics;
pub mod readiness;
pub mod status;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use router_core::hash::SequenceHash;
use router_core::levels::{Levels, Overlap};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::discovery::Rank;
use crate::discovery::members::Members;
use crate::parity::PoolParity;
use crate::sync::filters::Filters;
use crate::sync::pool::PoolHandle;
use metrics::Metrics;
use readiness::Readiness;

/// Longest list of hashes that a question about overlap may have.
const MAX_HASHES: usize = 100_000;

/// What the endpoints show.
#[derive(Clone)]
pub struct Admin {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/v1/status` and `/v1/overlap`.
    pub pools: Arc<[PoolStatus]>,
    /// For `/v1/status`.
    pub filters: Filters,
}

/// One pool, as shown.
pub struct PoolStatus {
    /// Its task.
    pub handle: PoolHandle,
    /// Its ranks.
    pub ranks: Arc<Members>,
    /// Numbering of slots and versions.
    pub epoch: u64,
    /// Tokens per block.
    pub block_size: u32,
    /// The tiers that its view tells apart.
    pub levels: Levels,
    /// Content addresses in hexadecimal.
    pub tokenizer: Option<String>,
    /// As `tokenizer`.
    pub template: Option<String>,
    /// Why the model cannot be used, if it cannot.
    pub unusable_because: Option<String>,
    /// Whether workers make our tokens.
    pub parity: Arc<PoolParity>,
}

impl PoolStatus {
    /// Why requests are not routed exactly, if they are not.
    fn inexact_because(&self) -> Option<String> {
        self.unusable_because.clone().or_else(|| self.parity.inexact_because())
    }
}

/// The endpoints: `/healthz`, `/readyz`, `/metrics`, `/v1/status`, `/v1/overlap`.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/v1/status", get(status))
        .route("/v1/overlap", get(overlap))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let waiting_for = admin.readiness.waiting_for();
    let code = if waiting_for.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let inexact = admin.pools.iter().filter_map(|pool| {
        let because = pool.inexact_because()?;
        Some(json!({"pool": &*pool.handle.name, "inexact_because": because}))
    });
    let body = json!({
        "ready": waiting_for.is_empty(),
        "waiting_for": waiting_for,
        "inexact_pools": inexact.collect::<Vec<_>>(),
    });
    (code, Json(body)).into_response()
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Json<Value> {
    let mut pools = Vec::with_capacity(admin.pools.len());
    for pool in admin.pools.iter() {
        let PoolStatus {
            handle,
            ranks,
            epoch,
            block_size,
            levels: _,
            tokenizer,
            template,
            unusable_because: _,
            parity,
        } = pool;
        let inexact_because = pool.inexact_because();
        let ranks: Vec<_> = ranks.list().iter().map(|member| member.status.state()).collect();
        // Asked for after the ranks' numbers of blocks, so that this version holds them.
        let position = handle.position().await;
        pools.push(json!({
            "name": &*handle.name,
            "epoch": epoch.to_string(),
            "version": position.map(|position| position.version),
            "block_size": block_size,
            "tokenizer": tokenizer,
            "template": template,
            "exact": inexact_because.is_none(),
            "inexact_because": inexact_because,
            "parity": parity.to_json(),
            "ranks": ranks,
        }));
    }
    Json(json!({ "pools": pools, "filters": admin.filters.list() }))
}

#[derive(Deserialize)]
struct OverlapQuery {
    pool: String,
    /// Sequence hashes from the root on, in decimal, with commas between.
    hashes: String,
}

async fn overlap(State(admin): State<Admin>, Query(query): Query<OverlapQuery>) -> Response {
    let refuse = |code: StatusCode, why: String| (code, Json(json!({ "error": why }))).into_response();
    let Some(pool) = admin.pools.iter().find(|pool| *pool.handle.name == query.pool) else {
        let known: Vec<_> = admin.pools.iter().map(|pool| pool.handle.name.to_string()).collect();
        return refuse(
            StatusCode::NOT_FOUND,
            format!("pool {:?} is unknown; known: {}", query.pool, known.join(", ")),
        );
    };
    let mut hashes = Vec::new();
    for text in query.hashes.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(hash) => hashes.push(SequenceHash(hash)),
            Err(_) => {
                let why = format!("hashes: {text:?} is no unsigned 64-bit number in decimal");
                return refuse(StatusCode::BAD_REQUEST, why);
            }
        }
        if hashes.len() > MAX_HASHES {
            return refuse(StatusCode::BAD_REQUEST, format!("hashes: more than {MAX_HASHES}"));
        }
    }
    let Some(depths) = pool.handle.depths(hashes).await else {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the control plane is stopping".to_owned(),
        );
    };
    let ranks: Vec<_> = pool
        .ranks
        .list()
        .iter()
        .map(|member| {
            let Rank {
                slot,
                endpoint,
                dp_rank,
                instance_id,
                ..
            } = &member.rank;
            let overlap = pool.levels.overlap(pool.levels.first_slot(slot.0), &depths);
            let Overlap { device, host, disk } = overlap;
            let mut shown = json!({
                "endpoint": endpoint, "dp_rank": dp_rank,
                "blocks": overlap.blocks(), "device": device, "host": host, "disk": disk,
            });
            if let Some(instance) = instance_id {
                shown["instance_id"] = instance.to_string().into();
            }
            shown
        })
        .collect();
    Json(json!({ "pool": query.pool, "overlap": ranks })).into_response()
}
