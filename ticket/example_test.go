package ticket_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/libssl-go/libssl/ticket"
)

// A server follows its file of keys. To rotate, another program adds a key and replaces the file.
func ExampleWatchRing() {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "ring.txt")
	rotated, err := ticket.NewRing() // sslsess keyring new
	if err == nil {
		err = rotated.Save(path)
	}
	if err != nil {
		log.Fatal(err)
	}

	ring, stop, err := ticket.WatchRing(path, 10*time.Millisecond, func(err error) { log.Print(err) })
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	changed := make(chan struct{}, 1)
	ring.OnChange(func() { changed <- struct{}{} })
	sealed := ring.Seal(nil, []byte("a session"), nil)

	if err := rotated.Rotate(); err != nil { // sslsess keyring rotate
		log.Fatal(err)
	}
	if err := rotated.Save(path); err != nil {
		log.Fatal(err)
	}
	<-changed
	opened, err := ring.Open(nil, sealed, nil)
	fmt.Println("keys:", ring.Len())
	fmt.Printf("%s, %v\n", opened, err)
	// Output:
	// keys: 2
	// a session, <nil>
}
