//! Which of a person's variables ranks on other hosts get.

use std::collections::BTreeMap;

/// Beginnings of names: our own, stores' credentials, libraries' settings, networks.
const BEGINNINGS: [&str; 24] = [
    "BLIP2_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "HF_",
    "NCCL_",
    "CUDA_",
    "OMP_",
    "MKL_",
    "ONEDNN_",
    "DNNL_",
    "KMP_",
    "GOMP_",
    "MALLOC_",
    "UCX_",
    "FI_",
    "LD_LIBRARY_PATH",
    "RUST_",
    "SSL_CERT_",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
];
/// The launchers' own, which mpirun itself sets or uses.
const NOT: [&str; 4] = ["BLIP2_RSH", "BLIP2_MPIRUN", "BLIP2_RANK", "CUDA_VISIBLE_DEVICES"];

/// The names among these that a person's ranks need on other hosts.
pub fn of_person(variables: &BTreeMap<String, String>) -> Vec<String> {
    let wanted = |name: &&String| {
        BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) && !NOT.contains(&name.as_str())
    };
    variables.keys().filter(wanted).cloned().collect()
}

/// Those and the ones that a plan sets, sorted, each once.
pub fn with(set: &[(&'static str, String)], person: &[String]) -> Vec<String> {
    let mpis_own = |name: &&str| name.starts_with("OMPI_") || name.starts_with("PRTE_");
    let planned = set.iter().map(|(name, _)| *name).filter(|name| !mpis_own(name)).map(str::to_owned);
    let mut names: Vec<String> = person.iter().cloned().chain(planned).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_credentials_travel_and_the_rest_stays() {
        let person =
            ["AWS_REGION", "HOME", "BLIP2_RSH", "NCCL_DEBUG", "OMPI_MCA_btl", "SLURM_JOB_ID", "MALLOC_TOP_PAD_"];
        let variables = person.map(|name| (name.to_owned(), "1".to_owned())).into_iter().collect();
        let set =
            [("MALLOC_TOP_PAD_", "2".to_owned()), ("OMPI_MCA_x", "1".to_owned()), ("BLIP2_PID_DIR", "d".to_owned())];
        assert_eq!(
            with(&set, &of_person(&variables)),
            ["AWS_REGION", "BLIP2_PID_DIR", "MALLOC_TOP_PAD_", "NCCL_DEBUG"]
        );
    }
}
