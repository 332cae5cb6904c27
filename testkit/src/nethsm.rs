//! A mock of NetHSM for commands that only read.
//!
//! **This is a mock**, as tests cannot count on the hardware. It shows that replies of the documented form are understood,
//! not that a real NetHSM sends them. It checks no credentials. The bodies are facts from public documents:
//!
//! - NetHSM's OpenAPI document, `nethsm-api.yaml`: the examples of `InfoData`, `HealthDiagnoseData`, `KeyList`, of
//!   `GET /keys/{KeyID}`, `PublicKey`, `UserList`, `UserData`, `TagList`, `NamespaceList`, `ClusterMemberList`,
//!   `SystemInfo` and of each `…Config`.
//! - Nitrokey's Python SDK, `nethsm`: its tests name the metrics, which are strings.
//! - Nitrokey's documentation: the first certificate is for the name `keyfender`; the defaults of logging are port 514 and
//!   `info`.
//!
//! The certificate is made by the test, because example certificates expire.

use rcgen::{CertificateParams, KeyPair};

use crate::mock_server::{Identity, MockServer, Reaction, reply, reply_as};

/// Starts a mock that is Operational and has the keys `KeyID`, `ec`, `ed` and `secret` and the users of the document.
pub fn start() -> MockServer {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["keyfender".to_owned()]).unwrap().self_signed(&key).unwrap();
    let pem = certificate.pem();
    let identity = Identity { certificate: certificate.der().clone(), key: key.serialize_der() };
    MockServer::start_as(identity, move |request| answer(request, &pem))
}

fn answer(request: &str, certificate: &str) -> Reaction {
    let mut words = request.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default().strip_prefix("/api/v1").unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    if method != "GET" {
        return reply(405, "");
    }
    match path {
        "/health/ready" => reply(200, ""),
        // Only an HSM that is Locked or Unprovisioned answers 200.
        "/health/alive" => reply(412, r#"{"message":"Service not available"}"#),
        "/keys/KeyID/public.pem" | "/config/tls/public.pem" => reply_as("application/x-pem-file", PUBLIC),
        "/keys/KeyID/cert" => reply_as("application/octet-stream", "any bytes"),
        "/config/tls/cert.pem" => reply_as("application/x-pem-file", certificate),
        "/config/tls/cluster-ca.pem" => reply(404, r#"{"message":"cluster CA is absent unless configured"}"#),
        path => match BODIES.iter().find(|(of, _)| *of == path) {
            Some((_, body)) => reply(200, body),
            None => reply(404, ""),
        },
    }
}

const BODIES: &[(&str, &str)] = &[
    ("/info", r#"{"vendor":"Nitrokey GmbH","product":"NetHSM"}"#),
    ("/health/state", r#"{"state":"Operational"}"#),
    (
        "/health/diagnose",
        r#"{"clusterLogs":[{"level":"error","msg":"Mock: no etcd"}],"clusterState":{"running":false}}"#,
    ),
    (
        "/metrics",
        r#"{"gc compactions":"0","gc major bytes":"1052672","gc major collections":"5","gc minor collections":"9",
            "http response 200":"3","http response 201":"1","http response 204":"2","http response time":"0.0325",
            "http response total":"6","kv write":"3","log errors":"0","log warnings":"3","uptime":"22"}"#,
    ),
    ("/keys", r#"[{"id":"KeyID"},{"id":"ec"},{"id":"ed"},{"id":"secret"}]"#),
    ("/keys/Key*", r#"[{"id":"KeyID"}]"#),
    (
        "/keys/KeyID",
        r#"{"mechanisms":["RSA_Signature_PSS_SHA256"],"type":"RSA","restrictions":{"tags":["berlin"]},
            "public":{"modulus":"FhJQl11CiY0ifRHXeAqFh4rdSl6","publicExponent":"FhJQl11CiY0ifRHXeAqFh4rdSl6"},
            "operations":242,"label":null}"#,
    ),
    (
        "/keys/ec",
        r#"{"mechanisms":["ECDSA_Signature"],"type":"EC_P256","operations":242,"restrictions":{"tags":["berlin"]},
            "public":{"data":"BMKlPJ60PNFgsekRwg7n5mTIJkWWy6XLy0ORj14HumKi5qH63JaJzFOWLxYiaB6KH0NOgEKb7rUt"}}"#,
    ),
    // The public key of RFC 8032 §7.1, test 2, in the form of the document.
    (
        "/keys/ed",
        r#"{"mechanisms":["EdDSA_Signature"],"type":"Curve25519","operations":242,"restrictions":{},
            "public":{"data":"PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="},"label":"labeltoset"}"#,
    ),
    // Generic keys have no public key.
    (
        "/keys/secret",
        r#"{"mechanisms":["AES_Encryption_CBC","AES_Decryption_CBC"],"type":"Generic","operations":0,
            "restrictions":{}}"#,
    ),
    ("/users", r#"[{"user":"admin"},{"user":"backup"},{"user":"metrics"},{"user":"operator"}]"#),
    ("/users/admin", r#"{"realName":"Jane User","role":"Administrator"}"#),
    ("/users/operator", r#"{"realName":"Jane User","role":"Operator"}"#),
    ("/users/operator/tags", r#"["berlin","frankfurt"]"#),
    ("/namespaces", r#"[{"id":"namespace1"}]"#),
    (
        "/cluster/members",
        r#"[{"id":"8e9e05c52164694d","name":"default","urls":["https://192.168.1.1:2380"],"learner":false}]"#,
    ),
    ("/config/unattended-boot", r#"{"status":"off"}"#),
    (
        "/config/network",
        r#"{"ipAddress":"192.168.1.1","netmask":"255.255.255.0","gateway":"0.0.0.0",
            "ipv6":{"cidr":"de:ad:be:ef::42/8","gateway":null}}"#,
    ),
    ("/config/logging", r#"{"ipAddress":"0.0.0.0","port":514,"logLevel":"info"}"#),
    ("/config/ntp", r#"{"ntpIP":"192.168.1.1","ntsName":"nts.example.com"}"#),
    ("/config/time", r#"{"time":"2018-10-30T11:20:50Z"}"#),
    (
        "/system/info",
        r#"{"softwareVersion":"1.7","softwareBuild":"f3f6292","firmwareVersion":"1.0-devel",
            "hardwareVersion":"prodrive-hermes-1","deviceId":"5UMIP364R2",
            "akPub":{"P256":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEup7z8QYvkzkBuLryG1SgVQjlPhSFW3PzYn1l3uLNd+pSBxX0OBpslcbnmPFr5wSs/iP46+H8MFlEAYUkYv6uuQ=="},
            "pcr":{"0":"0f6064779fba55b102a6ecc20498c2020deaf2aebef23716ec293b25873647f8",
                   "2":"2b0d25a4a92b4df5205742954243db9d306a4c3277a6b6958bcbaf3d47def26f"}}"#,
    ),
];

/// The public key of RFC 8032 §7.1, test 2 (RFC 8410).
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=
-----END PUBLIC KEY-----
";
