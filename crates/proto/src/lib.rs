//! The sync protocol between the control plane and the filters, and its conversions to and from the core
