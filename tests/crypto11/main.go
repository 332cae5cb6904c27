// A program with crypto11 as people write it: generates, finds, signs, decrypts, serves TLS and deletes.
//
// Arguments: the module and the label of the token; the PIN is in the environment variable PIN. It needs nothing that only one
// module has, so that it runs with SoftHSM2, too: a failure with both is not ours.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ThalesGroup/crypto11"
)

var digest = sha256.Sum256([]byte("data"))

func main() {
	token, err := crypto11.Configure(&crypto11.Config{Path: os.Args[1], TokenLabel: os.Args[2], Pin: os.Getenv("PIN")})
	check(err)
	for _, step := range []struct {
		name string
		run  func(*crypto11.Context) error
	}{{"rsa", useRSA}, {"ec", useEC}, {"random", readRandom}, {"threads", signInThreads}, {"tls", serveTLS}, {"delete", deleteAll}} {
		if err := step.run(token); err != nil {
			log.Fatalf("%s: %v", step.name, err)
		}
		fmt.Println(step.name, "ok")
	}
	check(token.Close())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func useRSA(token *crypto11.Context) error {
	if _, err := token.GenerateRSAKeyPairWithLabel([]byte{1, 255}, []byte("rsa"), 2048); err != nil {
		return err
	}
	found, err := token.FindKeyPair([]byte{1, 255}, nil)
	if err != nil {
		return err
	}
	key, ok := found.(crypto11.SignerDecrypter)
	if !ok {
		return errors.New("the key is not found by its id as an RSA key")
	}
	public := key.Public().(*rsa.PublicKey)

	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
		return err
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	if signature, err = key.Sign(rand.Reader, digest[:], pss); err != nil {
		return err
	}
	if err := rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, pss); err != nil {
		return err
	}

	// SoftHSM2 has SHA-1 only.
	oaep, err := rsa.EncryptOAEP(crypto.SHA1.New(), rand.Reader, public, []byte("secret"), nil)
	if err != nil {
		return err
	}
	if err := decrypts(key, oaep, &rsa.OAEPOptions{Hash: crypto.SHA1}); err != nil {
		return err
	}
	pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, public, []byte("secret"))
	if err != nil {
		return err
	}
	return decrypts(key, pkcs1, nil)
}

func decrypts(key crypto.Decrypter, encrypted []byte, options crypto.DecrypterOpts) error {
	plain, err := key.Decrypt(rand.Reader, encrypted, options)
	if err == nil && string(plain) != "secret" {
		return fmt.Errorf("%T: decrypted to something else", options)
	}
	return err
}

func useEC(token *crypto11.Context) error {
	for label, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		if _, err := token.GenerateECDSAKeyPairWithLabel([]byte(label), []byte(label), curve); err != nil {
			return err
		}
		key, err := token.FindKeyPair(nil, []byte(label))
		if err != nil {
			return err
		}
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
			return fmt.Errorf("%s: the signature is wrong", label)
		}
	}
	return isAbsent(token, "p25")
}

func readRandom(token *crypto11.Context) error {
	reader, err := token.NewRandomReader()
	if err != nil {
		return err
	}
	// More than one request of the server may ask for.
	block := make([]byte, 3000)
	if _, err := io.ReadFull(reader, block); err != nil {
		return err
	}
	if bytes.Count(block, []byte{0}) > 100 {
		return errors.New("these bytes are not random")
	}
	return nil
}

func signInThreads(token *crypto11.Context) error {
	key, err := token.FindKeyPair(nil, []byte("p256"))
	if err != nil {
		return err
	}
	failures := make(chan error, 16)
	var threads sync.WaitGroup
	for range 16 {
		threads.Go(func() {
			for range 10 {
				signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
				if err == nil && !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
					err = errors.New("a signature is wrong")
				}
				if err != nil {
					failures <- err
					return
				}
			}
		})
	}
	threads.Wait()
	close(failures)
	return <-failures
}

// A server and a client, each with a key of the token.
func serveTLS(token *crypto11.Context) error {
	server, err := certificate(token, "rsa")
	if err != nil {
		return err
	}
	client, err := certificate(token, "p256")
	if err != nil {
		return err
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Leaf)
	trusted.AddCert(client.Leaf)
	here, there := net.Pipe()
	serving := tls.Server(there, &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	served := make(chan error, 1)
	go func() { served <- serving.Handshake() }()
	asking := tls.Client(here, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: trusted, ServerName: "go.example"})
	if err := asking.Handshake(); err != nil {
		return err
	}
	// The server tells by its session tickets that it takes the certificate, so somebody has to read.
	go io.Copy(io.Discard, asking)
	return <-served
}

func certificate(token *crypto11.Context, label string) (tls.Certificate, error) {
	key, err := token.FindKeyPair(nil, []byte(label))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "go.example"}, DNSNames: []string{"go.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

func deleteAll(token *crypto11.Context) error {
	for _, label := range []string{"rsa", "p256", "p384", "p521"} {
		key, err := token.FindKeyPair(nil, []byte(label))
		if err != nil {
			return err
		}
		if err := key.Delete(); err != nil {
			return err
		}
		if err := isAbsent(token, label); err != nil {
			return err
		}
	}
	return nil
}

func isAbsent(token *crypto11.Context, label string) error {
	keys, err := token.FindKeyPairs(nil, []byte(label))
	if err == nil && len(keys) > 0 {
		return fmt.Errorf("there is a key %s", label)
	}
	return err
}
