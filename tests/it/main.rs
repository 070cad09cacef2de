//! Everything that is tried through the public surface, in one binary.

mod content;
