// SPDX-License-Identifier: Apache-2.0
//! aesm-interop SOCKET REPORT THREADS ROUNDS: quotes by way of the crate aesm-client, one of them to stdout.

use aesm_client::{unix::AesmClientExt, AesmClient};
use std::{env, fs, io::Write, thread};

fn main() {
    let args: Vec<String> = env::args().collect();
    let (report, threads, rounds) = (fs::read(&args[2]).unwrap(), args[3].parse().unwrap(), args[4].parse().unwrap());
    let client = AesmClient::with_path(&args[1]);
    client.try_connect().expect("probe");
    eprintln!("legacy: {}", client.init_quote().unwrap_err());
    let work = move || {
        let key_id = client.get_supported_att_key_ids().expect("key ids").remove(0);
        let target_info = client.init_quote_ex(key_id.clone()).expect("init").target_info().to_vec();
        let quote = || client.get_quote_ex(key_id.clone(), report.clone(), Some(target_info.clone()), vec![7; 16]);
        let results: Vec<_> = (0..rounds).map(|_| quote().expect("quote")).collect();
        assert!(results.iter().all(|one| one.qe_report().len() == 432));
        results[0].quote().to_vec()
    };
    let all: Vec<_> = (0..threads).map(|_| thread::spawn(work.clone())).collect();
    let quotes: Vec<_> = all.into_iter().map(|one| one.join().expect("thread")).collect();
    std::io::stdout().write_all(&quotes[0]).unwrap();
}
