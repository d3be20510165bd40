package transport_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// An operator's program asks a coordinator over mutual TLS, with the identity that the
// coordinator has made in its TLS directory.
func ExampleDialAdmin() {
	tls, err := os.MkdirTemp("", "tls")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(tls)
	c, err := coordinator.New(coordinator.Config{Storage: memstore.New(memstore.Options{}), ListenAddr: "127.0.0.1:0", TLSDir: tls})
	if err != nil {
		log.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- c.Run(serving) }()
	<-c.Ready()

	conn, err := transport.DialAdmin(transport.AdminConfig{Addr: c.Addr(), ServerName: "localhost", TLSDir: tls})
	if err != nil {
		log.Fatal(err)
	}
	st, err := conn.Status(context.Background())
	fmt.Println(st.Run == c.RunID(), st.Protocol, len(st.Workers), err)
	fmt.Println(conn.Close())
	stop()
	fmt.Println(<-served)
	// Output:
	// true h2 0 <nil>
	// <nil>
	// <nil>
}
