//! it
mod cli;
mod config;
