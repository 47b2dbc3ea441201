//! The HTTP endpoints for people and monitors.

pub mod metrics;
mod questions;
pub mod readiness;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use router_core::fleet::ModelName;
use router_core::hash::BlockLayout;
use router_core::levels::Levels;
use serde_json::{Value, json};

use crate::discovery::members::Members;
use crate::parity::PoolParity;
use crate::sync::filters::Filters;
use crate::sync::pool::PoolHandle;
use metrics::Metrics;
use readiness::Readiness;
use status::DiscoveryStatus;

/// What the endpoints show.
#[derive(Clone)]
pub struct Admin {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/v1/status`, `/v1/overlap` and `/v1/blocks`.
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
    /// What tells of them, unless they are listed.
    pub discovery: Option<Arc<DiscoveryStatus>>,
    /// Numbering of slots and versions.
    pub epoch: u64,
    /// What requests may say to get there.
    pub models: Vec<ModelName>,
    /// How its workers cut prompts into blocks.
    pub layout: BlockLayout,
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
        self.parity.inexact_because_or(self.unusable_because.as_deref())
    }
}

/// The endpoints: `/healthz`, `/readyz`, `/metrics`, `/v1/status`, `/v1/overlap`, `/v1/blocks`.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/v1/status", get(status))
        .route(
            "/v1/overlap",
            get(questions::overlap_of_query).post(questions::overlap_of_prompt),
        )
        .route("/v1/blocks", get(questions::blocks))
        .layer(DefaultBodyLimit::max(questions::MAX_BODY_BYTES))
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
    let mut troubled = Vec::new();
    for pool in admin.pools.iter() {
        for member in pool.ranks.list() {
            let Some(trouble) = member.status.trouble() else {
                continue;
            };
            troubled.push(json!({
                "pool": &*pool.handle.name,
                "endpoint": member.rank.endpoint,
                "dp_rank": member.rank.dp_rank,
                "trouble": trouble,
            }));
        }
    }
    let body = json!({
        "ready": waiting_for.is_empty(),
        "waiting_for": waiting_for,
        "inexact_pools": inexact.collect::<Vec<_>>(),
        "troubled_ranks": troubled,
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
            discovery,
            epoch,
            models: _,
            layout,
            levels: _,
            tokenizer,
            template,
            unusable_because: _,
            parity,
        } = pool;
        let inexact_because = pool.inexact_because();
        let refused: BTreeMap<_, _> = ranks
            .refused()
            .into_iter()
            .map(|(id, why)| (id.to_string(), why))
            .collect();
        let ranks: Vec<_> = ranks.list().iter().map(|member| member.status.state()).collect();
        // Asked for after the ranks' numbers of blocks, so that this version holds them.
        let position = handle.position().await;
        pools.push(json!({
            "name": &*handle.name,
            "epoch": epoch.to_string(),
            "version": position.map(|position| position.version),
            "block_size": layout.block_size,
            "view": *handle.view.borrow(),
            "tokenizer": tokenizer,
            "template": template,
            "exact": inexact_because.is_none(),
            "inexact_because": inexact_because,
            "parity": parity.to_json(),
            "discovery": discovery.as_ref().map(|discovery| discovery.state()),
            "ranks": ranks,
            "refused_workers": refused,
        }));
    }
    Json(json!({ "pools": pools, "filters": admin.filters.list() }))
}
