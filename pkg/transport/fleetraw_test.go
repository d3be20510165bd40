package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// rawServer is what a user of plain grpc-go writes for many beating clients: mutual
// TLS, fixed windows, and a handler that answers. It prints its address and ends with
// its input.
func rawServer(dir string) error {
	a, err := LoadAuthority(dir)
	if err != nil {
		return err
	}
	certs, err := newServerCerts(a, nil)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, GetCertificate: certs.get, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		})),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(connWindowBytes),
	)
	transportv1.RegisterHeartbeatServer(srv, rawBeats{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		bufio.NewScanner(os.Stdin).Scan()
		srv.Stop()
	}()
	return srv.Serve(l)
}

// joinRaw opens a heartbeat stream to a [rawServer].
func (l *loadProcess) joinRaw(i *Identity, a *Authority) (beatFunc, error) {
	cc, err := grpc.NewClient("passthrough:///"+l.spec.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*i.cert}, RootCAs: a.Pool(), ServerName: DefaultServerName,
		})),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(connWindowBytes),
	)
	if err != nil {
		return nil, err
	}
	s, err := transportv1.NewHeartbeatClient(cc).Stream(context.Background())
	if err != nil {
		return nil, err
	}
	ref := core.WorkerRef{ID: i.id, Epoch: 1}
	return func(seq uint64) error {
		var m transportv1.BeatRequest
		h := beat(ref, seq)
		h.SentAt = time.Now()
		beatTo(&m, h, ref.ID.String())
		if err := s.Send(&m); err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}, nil
}
