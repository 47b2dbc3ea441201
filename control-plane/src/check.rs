//! `warmpath check`: what will not work with a configuration that has no mistake in it.

use crate::config::Config;
use crate::model::{INEXACT, Model};

/// Loads the pools' models as `serve` does. One line for each pool that will be served by load, wholly or in part.
pub fn warnings(config: &Config) -> Vec<String> {
    let pools = config.pools.iter();
    let warnings = pools.filter_map(|pool| {
        let because = Model::load(&pool.model_dir, &pool.prompts).inexact_because()?;
        let (name, directory) = (&pool.name, pool.model_dir.display());
        Some(format!("pool {name}, model_dir {directory}: {INEXACT}: {because}"))
    });
    warnings.collect()
}
