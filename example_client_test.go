package libssl_test

import (
	"fmt"
	"io"
	"log"

	"github.com/libssl-go/libssl"
)

// A client whose connections resume by themselves.
func ExampleContext_UseClientCache() {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	if err := ctx.UseClientCache(1000); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		c, err := libssl.Dial("tcp", "www.example.com:443", ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, c)
		fmt.Println(c.SessionReused())
		c.Close()
	}
}
