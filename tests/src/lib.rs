//! What the whole-system tests share: the built programs, ranks under mpirun, servers and a proxy that spoils their
//! answers, data sets whole and broken, and tests that say aloud that they were skipped.

pub mod blip2;
pub mod broken;
pub mod connections;
pub mod fault_proxy;
pub mod gate;
pub mod http;
pub mod object_servers;
pub mod pages;
pub mod programs;
pub mod ranks;
pub mod runs;
pub mod sets;
pub mod skip;
pub mod slurm;
pub mod stand_ins;
pub mod static_server;
pub mod web;
