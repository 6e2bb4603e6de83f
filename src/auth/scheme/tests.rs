//! Tests of the forms: hashes made by others (libcrypt, Python, OpenSSL), what is refused, what we make.

use super::*;

const PASSWORD: &str = "correct horse";

/// Made by libxcrypt 4.4, Python's hashlib, argon2-cffi and `openssl passwd`; all of [`PASSWORD`].
const MADE_BY_OTHERS: &[(&str, &str)] = &[
    ("YESCRYPT", "$y$j9T$abcdefgh$4mqd6JVlUo/.JMgenptcdPqIowfqDPoC9lSyWQhPMf1"),
    (
        "SHA512-CRYPT",
        "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0",
    ),
    (
        "SHA512-CRYPT",
        "{CRYPT}$6$rounds=2000$saltsaltsaltsalt$vKorAh7RxoFP7xwjZsxwhpQj1SmMjq7W71uyufLVyiJSpIZxeYOAJPkVyLR\
         ogakJeCsy83UIcEmw5G4V.bOpo.",
    ),
    ("SHA256-CRYPT", "{SHA256-CRYPT}$5$rounds=2000$saltsalt$GA8aLngjETlVZmXlPXsJ5S5zl3c3.lqfpR0aR401in9"),
    ("MD5-CRYPT", "{MD5}$1$saltsalt$NuzA7WTAelpl95xgBGWN60"),
    ("MD5-CRYPT", "$apr1$saltsalt$EGVZDNN6gOqijy.tv9axG/"),
    ("BLF-CRYPT", "{BLF-CRYPT}$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"),
    ("BLF-CRYPT", "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"),
    (
        "ARGON2ID",
        "{ARGON2ID}$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
         RMnlO2yJjUzUJ1vqMJdgdgriWoTT+H4XFqGo/gwMfPA",
    ),
    (
        "ARGON2I",
        "$argon2i$v=19$m=1024,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$GDCZ5c7aXnvUVNpHOknsNv+G4/5qsrOF4YU1diGo/MA",
    ),
    ("SSHA", "{SSHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0"),
    ("SSHA256", "{ssha256}n+NyCAC8BTzorAU7AQEsEfh4qDAh0HpRtPLX0dsQdApzYWx0"),
    (
        "SSHA512",
        "{SSHA512}MObRFvUHqU5pLIXjc0HkeJH+PKVdEQk34oSyXkDftCxTU6Fk9rWjilWA553MtCFyazGhAOPiDyO1Rv1hndA\
         96XNhbHQ=",
    ),
    ("SHA256", "{SHA256.HEX}4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631"),
    ("SHA", "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A="),
    ("SMD5", "{SMD5}D4rOOyuX/Dgg3vClp5z5OnNhbHQ="),
    ("PLAIN-MD5", "{PLAIN-MD5}3cb4e732631f47e6eb961f34554b7cde"),
    ("PBKDF2", "{PBKDF2}$1$salt$1000$ba6e4f2c7f22bc472b44955ab1365787cfafc57d"),
    ("PLAIN", "{CLEARTEXT}correct horse"),
];

#[test]
fn hashes_made_by_others_fit() {
    for (scheme, field) in MADE_BY_OTHERS {
        let credential = Credential::parse(field).unwrap_or_else(|e| panic!("{field}: {e}"));
        assert_eq!(credential.scheme(), *scheme, "{field}");
        assert!(credential.fits(&PASSWORD.into()), "{field}");
        for wrong in ["correct horsf", "correct hors", "", "correct horse "] {
            assert!(!credential.fits(&wrong.into()), "{field} {wrong:?}");
        }
        assert_eq!(format!("{credential:?}"), format!("Credential({scheme})"));
    }
}

/// The verifier of RFC 7677 §3 (password `pencil`), in all forms that are read.
#[test]
fn verifiers_in_all_forms() {
    let verifier =
        Verifier::make(Hash::Sha256, b"pencil", &prepare::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
    let [stored, server] = [&verifier.stored_key, &verifier.server_key].map(|k| prepare::encode(k));
    for field in [
        format!("{{SCRAM-SHA-256}}4096,W22ZaJ0SNY7soEsUEjb6gQ==,{stored},{server}"),
        format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}"),
        format!("{{SCRAM-SHA-256}}4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}"),
        format!("{{SCRAM-SHA-256}}SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}"),
    ] {
        match Credential::parse(&field) {
            Ok(Credential::Scram(read)) => assert!(read == verifier, "{field}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    for bad in [
        "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,AAAA,AAAA".to_owned(),
        format!("{{SCRAM-SHA-256}}0,W22ZaJ0SNY7soEsUEjb6gQ==,{stored},{server}"),
        format!("{{SCRAM-SHA-256}}99999999,W22ZaJ0SNY7soEsUEjb6gQ==,{stored},{server}"),
        format!("{{SCRAM-SHA-256}}4096,,{stored},{server}"),
        format!("{{SCRAM-SHA-1}}4096,W22ZaJ0SNY7soEsUEjb6gQ==,{stored},{server}"),
        format!("{{SCRAM-SHA-1}}SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}"),
        format!("{{SCRAM-SHA-256}}4096,W22ZaJ0SNY7soEsUEjb6gQ==,{stored}"),
    ] {
        let error = Credential::parse(&bad).unwrap_err();
        assert!(!error.contains(&stored), "{error}");
    }
}

/// What would cost too much, is not known, or is broken.
#[test]
fn refused() {
    for field in [
        "secret",
        "rqXexS6ZhobKA",
        "{DES-CRYPT}rqXexS6ZhobKA",
        "{NTLM}AAAA",
        "{PLAIN}",
        "{SSHA}AAAA",
        "{SSHA}====",
        "{SHA256.HEX}xyz",
        "{SHA512-CRYPT}$5$rounds=2000$saltsalt$GA8aLngjETlVZmXlPXsJ5S5zl3c3.lqfpR0aR401in9",
        "{ARGON2ID}$6$saltsalt$x",
        "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$RMnlO2yJjUzUJ1vqMJdgdgriWoTT+H4XFqGo/gwM\
         fPA",
        "$argon2id$v=19$m=1024,t=999,p=1$c2FsdHNhbHRzYWx0c2FsdA$RMnlO2yJjUzUJ1vqMJdgdgriWoTT+H4XFqGo/gwMfPA",
        "$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA",
        "$2b$31$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
        "$2b$05$short",
        "$5$rounds=999999999$saltsalt$GA8aLngjETlVZmXlPXsJ5S5zl3c3.lqfpR0aR401in9",
        "$5$rounds=x$saltsalt$GA8aLngjETlVZmXlPXsJ5S5zl3c3.lqfpR0aR401in9",
        "$6$saltsalt$short",
        "$1$saltsalt$short",
        "$y$jFT$abcdefgh$4mqd6JVlUo/.JMgenptcdPqIowfqDPoC9lSyWQhPMf1",
        "$y$j9T0$abcdefgh$4mqd6JVlUo/.JMgenptcdPqIowfqDPoC9lSyWQhPMf1",
        "{PBKDF2}$1$salt$99999999$ba6e4f2c7f22bc472b44955ab1365787cfafc57d",
        "{PBKDF2}$1$salt$1000$ba6e",
        "$3$x$y",
    ] {
        assert!(Credential::parse(field).is_err(), "{field}");
    }
    for locked in ["", "*", "x", "!", "!!", "!$6$saltsalt$x", "*LK*"] {
        let credential = Credential::parse(locked).unwrap();
        assert!(matches!(credential, Credential::Locked) && !credential.fits(&locked.into()));
    }
    let long = "x".repeat(PASSWORD_MAX + 1);
    assert!(!Credential::Plain(long.as_str().into()).fits(&long.as_str().into()));
}

#[test]
fn what_is_made_is_read_back() {
    for scheme in SCHEMES {
        let maker = Maker { scheme: scheme.into(), iterations: 4096, salt: *b"0123456789abcdef" };
        let field = maker.make(&PASSWORD.into()).unwrap();
        let credential = Credential::parse(&field).unwrap_or_else(|e| panic!("{field}: {e}"));
        assert!(credential.fits(&PASSWORD.into()) && !credential.fits(&"x".into()), "{field}");
        assert!(!field.contains(':') && !field.contains('\n'));
        assert_eq!(credential.scheme(), scheme);
    }
    let maker = |scheme: &str| Maker { scheme: scheme.into(), ..Maker::new([1; 16]) };
    assert!(maker("ROT13").make(&PASSWORD.into()).is_err());
    assert!(maker("PLAIN").make(&"a:b".into()).is_err());
    assert!(maker("BLF-CRYPT").make(&"x".repeat(73).as_str().into()).is_err());
}

#[test]
fn each_serves_what_it_can() {
    let serves = |field: &str| Credential::parse(field).unwrap().serves().names();
    assert_eq!(
        serves("{PLAIN}x"),
        "SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1-PLUS SCRAM-SHA-1 EXTERNAL CRAM-MD5 PLAIN LOGIN"
    );
    assert_eq!(serves(MADE_BY_OTHERS[8].1), "EXTERNAL PLAIN LOGIN");
    let scram = Maker { scheme: "SCRAM-SHA-1".into(), iterations: 1, salt: [1; 16] };
    assert_eq!(
        serves(&scram.make(&"x".into()).unwrap()),
        "SCRAM-SHA-1-PLUS SCRAM-SHA-1 EXTERNAL PLAIN LOGIN"
    );
}
