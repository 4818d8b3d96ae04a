//! The proxy that spoils answers does what its plan says, and what this project reads through it is whole.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use data_pipeline::store::Location;
use integration_tests::fault_proxy::{FAULTS, Fault, FaultProxy, Plan};
use integration_tests::static_server::StaticServer;

fn server() -> StaticServer {
    let bytes = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    StaticServer::start(BTreeMap::from([("folder/file.parquet".to_owned(), bytes)]))
}

/// A proxy in front of a server whose every request has this fault.
fn always(server: &StaticServer, fault: Fault) -> FaultProxy {
    let stall = Duration::from_millis(300);
    FaultProxy::start(server.address(), Plan { shares: vec![(fault, 1.0)], stall, ..Plan::default() })
}

/// What a plain client gets.
fn get(proxy: &FaultProxy) -> (std::io::Result<usize>, Vec<u8>) {
    let mut connection = TcpStream::connect(proxy.address()).unwrap();
    connection.write_all(b"GET /folder/file.parquet HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let result = connection.read_to_end(&mut answer);
    (result, answer)
}

#[test]
fn each_fault_is_what_it_is_called() {
    let server = server();
    let reset = |result: std::io::Result<usize>| result.unwrap_err().kind() == ErrorKind::ConnectionReset;

    let (result, answer) = get(&always(&server, Fault::ResetBefore));
    assert!(reset(result) && answer.is_empty());
    let (result, answer) = get(&always(&server, Fault::ResetWithin));
    assert!(reset(result) && answer.len() < 150_000);
    let (result, answer) = get(&always(&server, Fault::Truncated));
    assert!(result.is_ok() && (100_000..101_000).contains(&answer.len()), "{result:?} {}", answer.len());
    let began = Instant::now();
    let (result, answer) = get(&always(&server, Fault::Stalled));
    assert!(
        result.is_ok() && (100_000..101_000).contains(&answer.len()) && began.elapsed() >= Duration::from_millis(300)
    );

    let proxy = always(&server, Fault::Unavailable);
    let mut connection = TcpStream::connect(proxy.address()).unwrap();
    for request in 1..=2 {
        connection.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut start = [0; 50];
        let read = connection.read(&mut start).unwrap();
        assert!(start[..read].starts_with(b"HTTP/1.1 503 "));
        assert_eq!((proxy.requests(), proxy.counts()[0]), (request, request), "the connection stays open");
    }
}

#[test]
fn the_plan_is_a_function_of_the_seed_and_keeps_its_shares() {
    let shares: Vec<(Fault, f64)> = FAULTS.map(|fault| (fault, 0.02)).to_vec();
    let fates = |seed| -> Vec<Option<Fault>> {
        let plan = Plan { seed, shares: shares.clone(), ..Plan::default() };
        (0..20_000).map(|number| plan.fate(number)).collect()
    };
    let first = fates(1);
    assert!(first == fates(1) && first != fates(2));
    for fault in FAULTS {
        let count = first.iter().filter(|fate| **fate == Some(fault)).count();
        // Binomial, n = 20,000, p = 0.02: mean 400, deviation 19.8; five deviations.
        assert!((301..=499).contains(&count), "{fault:?}: {count}");
    }
}

#[test]
fn latency_is_added_to_each_request() {
    let server = server();
    let proxy = FaultProxy::start(server.address(), Plan { latency: Duration::from_millis(80), ..Plan::default() });
    let place = Location::parse(&format!("http://{}/folder/file.parquet", proxy.address())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    runtime.block_on(async {
        place.head().await.unwrap();
        place.read_range(0..10, None).await.unwrap();
    });
    assert!(began.elapsed() >= Duration::from_millis(160) && proxy.requests() == 2);
}

#[test]
fn ranges_come_whole_through_every_fault() {
    let server = server();
    // Stalls end before the reader's patience does: with 8 s each they would make this test a long one.
    let shares = FAULTS.map(|fault| (fault, 0.06)).to_vec();
    let plan = Plan { seed: 3, shares, stall: Duration::from_millis(20), ..Plan::default() };
    let proxy = FaultProxy::start(server.address(), plan);
    let folder = Location::parse(&format!("http://{}/folder", proxy.address())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let found = folder.list(".parquet").await.unwrap();
        let [(place, meta)] = found.as_slice() else { panic!("one file is served") };
        for n in 0..200u64 {
            let range = n * 900..n * 900 + 20_000;
            let bytes = place.read_range(range.clone(), meta.e_tag.as_deref()).await.unwrap();
            assert!(bytes.iter().zip(range).all(|(byte, at)| u64::from(*byte) == at % 251));
        }
    });
    assert!(proxy.counts().iter().all(|count| *count > 0), "{:?}", proxy.counts());
}

#[test]
fn a_read_that_stalls_is_given_up_after_seconds_and_tried_again() {
    let server = server();
    // The first request stalls for longer than the test may take; later ones do not.
    let seed = (0..).find(|seed| {
        let plan = Plan { seed: *seed, shares: vec![(Fault::Stalled, 0.3)], ..Plan::default() };
        plan.fate(0).is_some() && (1..4).all(|number| plan.fate(number).is_none())
    });
    let stall = Duration::from_secs(60);
    let plan = Plan { seed: seed.unwrap(), shares: vec![(Fault::Stalled, 0.3)], stall, ..Plan::default() };
    let proxy = FaultProxy::start(server.address(), plan);
    let place = Location::parse(&format!("http://{}/folder/file.parquet", proxy.address())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    assert_eq!(runtime.block_on(place.read_range(0..100_000, None)).unwrap().len(), 100_000);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(7) && took < Duration::from_secs(30),
        "{took:?}: one silence of 8 s was expected"
    );
}
