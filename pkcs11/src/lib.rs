//! The PKCS#11 module of Casemate, for Casemate and NetHSM servers.
