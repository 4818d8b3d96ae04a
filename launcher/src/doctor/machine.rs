//! This machine: ranks against cores, memory and GPUs, limits of the system, shared memory, temporary files, ports.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use configs::{Backend, Run};
use rustix::process::{Resource, getrlimit};

use super::check::Check;
use super::context::Context;
use crate::progress::bytes;
use crate::ranks::allocation::Standing;
use crate::ranks::{Wanted, gpus};

/// Open files that a rank needs: shards and connections on their way, libraries, pipes.
const OPEN_FILES: u64 = 512;
/// Threads of a rank besides those that compute and decode: libtorch's, MPI's, those for stores.
const MORE_THREADS: u64 = 16;
/// Bytes of shared memory that MPI maps for each rank of a host, and NCCL besides.
const SHARED: [u64; 2] = [16 << 20, 64 << 20];
/// Address space below which libraries of this size cannot be mapped.
const ADDRESS_SPACE: u64 = 64 << 30;
/// Free bytes for temporary files: less than the first is a failure, less than the second a warning.
const TEMPORARY: [u64; 2] = [16 << 20, 256 << 20];
/// Memory that is locked for a fast network.
const LOCKED: u64 = 64 << 20;
/// Time for a connection of this machine to itself.
const CONNECT: Duration = Duration::from_secs(3);

/// Ranks on this host.
pub fn ranks_here(run: &Run) -> usize {
    run.cluster.ranks_per_node.min(run.max_world_size()).max(1)
}

/// Where ranks go, and whether there are cores and memory for them.
pub fn placement(context: &Context) -> Vec<Check> {
    let run = &context.run;
    let ranks = ranks_here(run);
    vec![place(context, ranks), cores(run, ranks), memory(run, ranks)]
}

fn place(context: &Context, ranks: usize) -> Check {
    let (run, name, expected) = (&context.run, "placement", "a place for every rank");
    let nodes = run.cluster.nodes;
    if let Standing::Step(_) = context.programs.standing() {
        return Check::ok(name, format!("{ranks} ranks on this node"), expected);
    }
    let place = Wanted::default().place(&context.programs, run.cluster.ranks_per_node);
    match place.and_then(|place| place.ranks(run, None)) {
        Ok((all, _)) => Check::ok(name, format!("{all} ranks, {ranks} on this host"), expected),
        Err(_) if nodes > 1 && context.programs.standing() == Standing::Outside => {
            let fix = "look at all nodes from inside an allocation: salloc, then `blip2 doctor --slurm`; `blip2 \
                 submit` starts the run";
            let found = format!("this host, looked at as one of the {nodes} nodes of the run");
            Check::warning(name, found, "all nodes", fix)
        }
        Err(error) => Check::failure(
            name,
            format!("{error:#}"),
            expected,
            "set cluster.nodes and cluster.ranks_per_node as there are",
        ),
    }
}

fn cores(run: &Run, ranks: usize) -> Check {
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = ranks * run.cluster.threads_per_rank;
    let (found, expected) =
        (format!("{here} cores"), format!("{wanted} for {ranks} ranks of {} threads", run.cluster.threads_per_rank));
    match here {
        here if here < wanted => {
            let fix = format!(
                "set cluster.threads_per_rank={} or ask for more cores (--cpus-per-task)",
                (here / ranks).max(1)
            );
            Check::warning("cores", found, &expected, fix)
        }
        _ => Check::ok("cores", found, expected),
    }
}

/// Whether the loaders of all ranks may take the memory that they are allowed.
fn memory(run: &Run, ranks: usize) -> Check {
    let name = "memory.loader";
    let Some(free) = free_memory() else { return Check::skipped(name, "/proc/meminfo tells nothing") };
    let wanted = ranks as u64 * (run.data.loader.memory_mb << 20);
    let (found, expected) =
        (format!("{} free", bytes(free)), format!("{} for the loaders of {ranks} ranks", bytes(wanted)));
    match free {
        free if free < wanted => {
            let fix = "lower data.loader.memory_mb, start fewer ranks on this host, or ask for more memory (--mem)";
            Check::failure(name, found, &expected, fix)
        }
        _ => Check::ok(name, found, expected),
    }
}

/// Bytes that could be had now: of the machine, and of the group of processes that this one is in.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10;
    let number =
        |file: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?.trim().parse::<u64>().ok();
    let of_group = number("memory.max").map(|most| most.saturating_sub(number("memory.current").unwrap_or(0)));
    Some(of_group.map_or(free, |group| group.min(free)))
}

/// GPUs and their driver, where the run wants them.
pub fn gpus(context: &Context) -> Vec<Check> {
    if context.run.cluster.backend != Backend::Nccl {
        return vec![Check::skipped("gpus", "the run computes on processors (cluster.backend)")];
    }
    if context.is_login_node() {
        return vec![Check::skipped("gpus", super::LOGIN_NODE)];
    }
    let ranks = ranks_here(&context.run);
    let expected = format!("{ranks} GPUs, one for each rank of this host");
    let found = match gpus::here(&context.programs) {
        None => Check::skipped("gpus", "this may be a login node; look from inside the job with --slurm"),
        Some((found, source)) if found < ranks => {
            context.note_broken(super::GPUS);
            Check::failure("gpus", format!("{found} GPUs ({source})"), &expected, gpus::fix(found, ranks))
        }
        Some((found, source)) => Check::ok("gpus", format!("{found} GPUs ({source})"), expected),
    };
    let version = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = match version.lines().next() {
        Some(line) => Check::ok("driver", line.trim_start_matches("NVRM version:").trim(), "NVIDIA's driver"),
        None => {
            let fix = "install NVIDIA's driver, give the container its GPUs (`--gpus all`, `--nv`), or train on \
                 CPUs with \
                       --set cluster.backend=mpi";
            Check::failure("driver", "no /proc/driver/nvidia/version", "NVIDIA's driver", fix)
        }
    };
    vec![found, driver]
}

/// What the system allows this user's processes.
pub fn limits(context: &Context) -> Vec<Check> {
    let run = &context.run;
    let ranks = ranks_here(run) as u64;
    let threads = ranks * ((run.cluster.threads_per_rank + run.data.loader.decode_threads) as u64 + MORE_THREADS);
    let soft = |resource| getrlimit(resource).current;
    let on_gpus = run.cluster.backend == Backend::Nccl;
    let is_spread = run.cluster.nodes > 1;
    vec![
        limit(
            "limits.open_files",
            soft(Resource::Nofile),
            OPEN_FILES,
            ("", "raise it: `ulimit -n 65536`, or LimitNOFILE and limits.conf"),
        ),
        limit(
            "limits.processes",
            soft(Resource::Nproc),
            threads,
            (" for all threads", "raise it: `ulimit -u unlimited`, or limits.conf"),
        ),
        locked(soft(Resource::Memlock), on_gpus || is_spread),
        limit(
            "limits.address_space",
            soft(Resource::As),
            ADDRESS_SPACE,
            (" bytes", "lift it: `ulimit -v unlimited`; use --mem of SLURM or a cgroup to bound memory"),
        ),
    ]
}

fn limit(name: &str, soft: Option<u64>, least: u64, (unit, fix): (&str, &str)) -> Check {
    let found = soft.map_or_else(|| "unlimited".to_owned(), |soft| soft.to_string());
    let expected = format!("{least}{unit} or more");
    match soft {
        Some(soft) if soft < least => Check::failure(name, found, &expected, fix),
        _ => Check::ok(name, found, expected),
    }
}

/// InfiniBand registers memory that must stay where it is.
fn locked(soft: Option<u64>, matters: bool) -> Check {
    let name = "limits.locked_memory";
    match soft {
        Some(soft) if matters && soft < LOCKED => {
            let fix = "raise it where InfiniBand is used: `ulimit -l unlimited`, or LimitMEMLOCK=infinity of slurmd";
            Check::warning(name, bytes(soft), &format!("{} or more", bytes(LOCKED)), fix)
        }
        soft => Check::ok(name, soft.map_or_else(|| "unlimited".to_owned(), bytes), "enough for the network"),
    }
}

/// Shared memory and temporary files.
pub fn space(context: &Context) -> Vec<Check> {
    let folder = context.programs.variable("TMPDIR").unwrap_or("/tmp");
    vec![shared_memory(&context.run), temporary(Path::new(folder))]
}

fn shared_memory(run: &Run) -> Check {
    let (name, place) = ("shared_memory", "/dev/shm");
    let ranks = ranks_here(run) as u64;
    if ranks == 1 {
        return Check::skipped(name, "one rank on a host shares with nobody");
    }
    let on_gpus = run.cluster.backend == Backend::Nccl;
    let wanted = ranks * if on_gpus { SHARED[0] + SHARED[1] } else { SHARED[0] };
    let expected = format!("{} at {place} for {ranks} ranks", bytes(wanted));
    let fix = "give it more: `mount -o remount,size=8g /dev/shm`, in a container `--shm-size=8g` or `--ipc=host`";
    match free_at(Path::new(place)) {
        Ok(free) if free < wanted => Check::failure(name, format!("{} free", bytes(free)), &expected, fix),
        Ok(free) => Check::ok(name, format!("{} free", bytes(free)), expected),
        Err(error) => Check::failure(name, format!("{place}: {error}"), &expected, fix),
    }
}

fn temporary(folder: &Path) -> Check {
    let name = "disk.tmp";
    let expected = format!("{} for files of MPI and of the launcher", bytes(TEMPORARY[1]));
    let fix =
        "free some space there, or set TMPDIR to a folder of this machine that has more and that you may write to";
    let probe = folder.join(format!("blip2-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, [0; 4096]);
    let _was_not_written = std::fs::remove_file(&probe);
    let place = folder.display();
    match (written, free_at(folder)) {
        (Err(error), _) => Check::failure(name, format!("{place} cannot be written to: {error}"), &expected, fix),
        (_, Err(error)) => Check::warning(name, format!("{place}: {error}"), &expected, fix),
        (_, Ok(free)) if free < TEMPORARY[0] => {
            Check::failure(name, format!("{} free at {place}", bytes(free)), &expected, fix)
        }
        (_, Ok(free)) if free < TEMPORARY[1] => {
            Check::warning(name, format!("{} free at {place}", bytes(free)), &expected, fix)
        }
        (_, Ok(free)) => Check::ok(name, format!("{} free at {place}", bytes(free)), expected),
    }
}

/// Bytes that this user may still write to the file system of a folder.
fn free_at(folder: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Whether a port can be opened where ranks report to the launcher, and reached from here.
pub fn ports(context: &Context) -> Vec<Check> {
    let (name, expected) = ("ports", "a port that can be opened and reached");
    let fix = "name an address of this host in BLIP2_ADDRESS, or unset it; bring the loopback interface up (`ip \
         link set lo up`); \
               let the firewall pass TCP between nodes";
    let named = context.programs.variable("BLIP2_ADDRESS");
    let address: IpAddr = match named.map(str::parse).transpose() {
        Ok(named) => named.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Err(_) => {
            let found = format!("BLIP2_ADDRESS is {}, which is no address", named.unwrap_or_default());
            return vec![Check::failure(name, found, expected, fix)];
        }
    };
    vec![match reach(address) {
        Ok(port) => Check::ok(name, format!("{port} opened and reached"), expected),
        Err(error) => Check::failure(name, format!("{address}: {error}"), expected, fix),
    }]
}

/// Opens a port, connects to it, and sends a few bytes through.
fn reach(address: IpAddr) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0))?;
    let port = listener.local_addr()?;
    let mut client = TcpStream::connect_timeout(&port, CONNECT)?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(CONNECT))?;
    client.write_all(b"blip2")?;
    let mut read = [0; 5];
    server.read_exact(&mut read)?;
    match &read == b"blip2" {
        true => Ok(port),
        false => Err(std::io::Error::other("other bytes came than were sent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn a_limit_that_is_too_low_says_how_to_raise_it() {
        let of = |soft| limit("limits.open_files", soft, OPEN_FILES, ("", "ulimit -n"));
        assert_eq!((of(None).state, of(Some(512)).state), (State::Ok, State::Ok));
        let low = of(Some(64));
        assert_eq!((low.state, low.fix.as_str()), (State::Failure, "ulimit -n"));
        assert_eq!(locked(Some(8), false).state, State::Ok);
        assert_eq!(locked(Some(8), true).state, State::Warning);
    }

    #[test]
    fn memory_that_loaders_may_take_must_be_there() {
        let run = |megabytes: &str| Context::for_tests(&[megabytes]).run;
        assert_eq!(memory(&run("data.loader.memory_mb=16"), 1).state, State::Ok);
        assert_eq!(memory(&run("data.loader.memory_mb=999999999"), 1).state, State::Failure);
    }

    #[test]
    fn ports_of_this_host_are_reached_and_others_cannot_be_opened() {
        assert!(reach(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok());
        // TEST-NET-1 of RFC 5737 belongs to no host.
        assert!(reach("192.0.2.7".parse().unwrap()).is_err());
    }

    #[test]
    fn temporary_files_need_a_folder_that_can_be_written_to() {
        let missing = temporary(Path::new("/nowhere/at/all"));
        assert_eq!(missing.state, State::Failure);
        assert!(missing.fix.contains("TMPDIR"), "{missing:?}");
    }
}
