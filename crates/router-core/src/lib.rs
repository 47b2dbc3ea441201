//! Pure routing decisions: block hashes, prefix view, load, cost, pick, the life of a request
