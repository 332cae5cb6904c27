//! Signatures a second. All three sides take turns in short windows, so that other work on the machine slows all of them; what
//! counts is the ratio.

use std::env;
use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::keys::Sign;
use casemate_api::{KeyId, SignMode};
use casemate_client::Session as Server;
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

const THREADS: [usize; 3] = [1, 16, 64];

/// A kind of key: its name is the id of a key on the server.
struct Row {
    name: &'static str,
    mode: SignMode,
    message_bytes: usize,
}

const ROWS: [Row; 3] = [
    Row { name: "RSA-2048", mode: SignMode::PKCS1, message_bytes: 51 },
    Row { name: "P-256", mode: SignMode::ECDSA, message_bytes: 32 },
    Row { name: "Ed25519", mode: SignMode::EdDSA, message_bytes: 32 },
];

impl Row {
    fn mechanism(&self) -> Mechanism<'static> {
        match self.mode {
            SignMode::PKCS1 => Mechanism::RsaPkcs,
            SignMode::EdDSA => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
            _ => Mechanism::Ecdsa,
        }
    }

    fn message(&self) -> Vec<u8> {
        vec![7; self.message_bytes]
    }
}

/// One way to have something signed.
enum Side {
    Module { module: Pkcs11, slot: Slot, key: ObjectHandle },
    Client(Server),
}

/// What windows of one side have shown together.
#[derive(Clone, Copy, Default)]
struct Total {
    signatures: u32,
    took: Duration,
    /// CPU time of this process.
    cpu: Duration,
}

impl Total {
    fn add(&mut self, other: Total) {
        self.signatures += other.signatures;
        self.took += other.took;
        self.cpu += other.cpu;
    }

    fn per_second(&self) -> f64 {
        f64::from(self.signatures) / self.took.as_secs_f64()
    }

    /// For each signature, in microseconds.
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(self.signatures)
    }
}

pub(crate) fn measure(address: &str, pin: &str, windows: usize, window: Duration) {
    let ours = crate::module();
    let (slot, session) = crate::logged_in(&ours, pin);
    let soft = soft_hsm();
    println!(
        "| key | threads | module: signatures/s | client alone | module by client | by CPU | CPU µs each | SoftHSM2 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in ROWS {
        let id = Attribute::Id(row.name.as_bytes().to_vec());
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), id];
        let key = *session.find_objects(&template).unwrap().first().expect("a key of this id");
        let sides = [
            Side::Module { module: ours.clone(), slot, key },
            Side::Client(crate::client(address, pin)),
            Side::Module { module: soft.0.clone(), slot: soft.1, key: generated(&soft, &row) },
        ];
        for threads in THREADS {
            print(&row, threads, &turns(&row, &sides, threads, windows, window));
        }
    }
}

/// The windows of each side, which take turns.
fn turns(row: &Row, sides: &[Side; 3], threads: usize, windows: usize, window: Duration) -> [Total; 3] {
    // Warm: there are connections for all threads.
    for side in sides {
        run(row, side, threads, window);
    }
    let mut totals = [Total::default(); 3];
    for _ in 0..windows {
        for (side, total) in sides.iter().zip(&mut totals) {
            total.add(run(row, side, threads, window));
        }
    }
    totals
}

fn print(row: &Row, threads: usize, [module, client, soft]: &[Total; 3]) {
    let percent = |of_module: f64, of_client: f64| 100.0 * of_module / of_client;
    println!(
        "| {} | {threads} | {:.0} | {:.0} | {:.0} % | {:.0} % | {:.0}, {:.0} | {:.0} |",
        row.name,
        module.per_second(),
        client.per_second(),
        percent(module.per_second(), client.per_second()),
        percent(client.cpu_us(), module.cpu_us()),
        module.cpu_us(),
        client.cpu_us(),
        soft.per_second(),
    );
}

/// One window.
fn run(row: &Row, side: &Side, threads: usize, window: Duration) -> Total {
    let (ready, over) = (Barrier::new(threads + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| sign(row, side, &ready, &over))).collect();
        ready.wait();
        let (begun, cpu) = (Instant::now(), cpu_time());
        thread::sleep(window);
        over.store(true, Ordering::Relaxed);
        let done: Vec<(u32, Instant)> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let ended = done.iter().map(|(_, ended)| *ended).max().unwrap_or(begun);
        let signatures = done.iter().map(|(signatures, _)| signatures).sum();
        Total { signatures, took: ended - begun, cpu: cpu_time() - cpu }
    })
}

/// Signs until it is over, and tells how often, and when the last signature was there.
fn sign(row: &Row, side: &Side, ready: &Barrier, over: &AtomicBool) -> (u32, Instant) {
    let message = row.message();
    let repeat = |sign: &mut dyn FnMut()| {
        ready.wait();
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            sign();
            count += 1;
        }
        (count, Instant::now())
    };
    match side {
        Side::Module { module, slot, key } => {
            let (session, mechanism) = (module.open_ro_session(*slot).unwrap(), row.mechanism());
            repeat(&mut || {
                session.sign(&mechanism, *key, &message).unwrap();
            })
        }
        Side::Client(server) => {
            let id = KeyId::parse(row.name).unwrap();
            repeat(&mut || {
                let request = Sign { mode: row.mode, message: BASE64_STANDARD.encode(&message) };
                let reply = server.keys().sign(&id, &request).unwrap();
                BASE64_STANDARD.decode(reply.signature).unwrap();
            })
        }
    }
}

/// CPU time of this process so far; the kernel counts in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // Of all threads, in user mode and in the kernel: fields 14 and 15, of which the first here is the third.
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

const PIN: &str = "1234";

/// SoftHSM2 with a fresh token.
fn soft_hsm() -> (Pkcs11, Slot) {
    let module = crate::loaded(&env::var("SOFTHSM2_MODULE").expect("SOFTHSM2_MODULE").into());
    let slot = *module.get_slots_with_token().unwrap().first().unwrap();
    module.init_token(slot, &AuthPin::new(PIN.into()), "bench").unwrap();
    let slot = *module.get_slots_with_initialized_token().unwrap().first().unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&AuthPin::new(PIN.into()))).unwrap();
    session.init_pin(&AuthPin::new(PIN.into())).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
    // The login lasts as long as there is a session.
    std::mem::forget(session);
    (module, slot)
}

/// A key of SoftHSM2.
fn generated((module, slot): &(Pkcs11, Slot), row: &Row) -> ObjectHandle {
    let session = module.open_rw_session(*slot).unwrap();
    let (by, of) = match row.mode {
        SignMode::PKCS1 => (Mechanism::RsaPkcsKeyPairGen, Attribute::ModulusBits(2048.into())),
        // `CKA_EC_PARAMS`: the name of the curve, and the object identifier of P-256.
        SignMode::EdDSA => (Mechanism::EccEdwardsKeyPairGen, Attribute::EcParams(b"\x13\x0cedwards25519".to_vec())),
        _ => (Mechanism::EccKeyPairGen, Attribute::EcParams(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec())),
    };
    let public = [Attribute::Token(true), Attribute::Verify(true), of];
    let private = [Attribute::Token(true), Attribute::Private(true), Attribute::Sign(true)];
    session.generate_key_pair(&by, &public, &private).unwrap().1
}
