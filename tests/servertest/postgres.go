package servertest

import (
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Postgres starts PostgreSQL with TLS, which it demands of all clients. cert and key are PEM. User, password and database are
// "postgres".
func Postgres(t testing.TB, cert, key []byte) *Server {
	t.Helper()
	bin := postgresPrograms(t)
	s := find(t, filepath.Join(bin, "postgres"))
	if err := os.Chmod(filepath.Dir(s.dir), 0o711); err != nil { // its parent is for this user alone
		t.Fatal(err)
	}
	as := ownedByPostgres(t, s.dir)
	file := func(name string, content []byte) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		ownedByPostgres(t, path)
		return path
	}

	data := filepath.Join(s.dir, "data")
	args := append(as, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "postgres", "--pwfile", file("password", []byte("postgres")),
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync")
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	host, port, _ := net.SplitHostPort(s.Addr)
	args = append(as, s.program, "-D", data, "-h", host, "-p", port, "-c", "unix_socket_directories=", "-c", "fsync=off",
		"-c", "hba_file="+file("hba.conf", []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n")),
		"-c", "ssl=on", "-c", "ssl_cert_file="+file("cert.pem", cert), "-c", "ssl_key_file="+file("key.pem", key))
	s.program, s.args = args[0], args[1:]
	s.ready = func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "-q", "-h", host, "-p", port).Run() == nil
	}
	s.Start()
	t.Cleanup(func() { // a killed one leaves shared memory behind
		s.signal(syscall.SIGQUIT)
		<-s.exited
	})
	return s
}

// postgresPrograms is the folder of the newest programs that are installed. Debian's are not on the PATH.
func postgresPrograms(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: does not start PostgreSQL")
	}
	newest, folder := 0, ""
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	for _, path := range found {
		bin := filepath.Dir(path)
		if version, err := strconv.Atoi(filepath.Base(filepath.Dir(bin))); err == nil && version > newest {
			newest, folder = version, bin
		}
	}
	if path, err := exec.LookPath("initdb"); err == nil && folder == "" {
		folder = filepath.Dir(path)
	}
	if folder == "" {
		t.Fatal("PostgreSQL is missing: install it (Debian's package postgresql), or test with -short")
	}
	return folder
}

// ownedByPostgres gives path to the user that PostgreSQL runs as, because it refuses to run as root. It returns the beginning
// of commands of that user, which end with their parent.
func ownedByPostgres(t testing.TB, path string) (command []string) {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("%v: Debian's package postgresql-common makes that user", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	return []string{"setpriv", "--reuid", u.Uid, "--regid", u.Gid, "--clear-groups", "--pdeathsig", "QUIT"}
}
