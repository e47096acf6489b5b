// http-server PORT: an HTTP server on ":PORT" (both families, MPTCP where Go asks for it).
// GET /echo/TEXT answers TEXT; POST /length answers how many bytes came; GET /bytes/N sends N.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: http-server PORT")
	}
	listener, err := net.Listen("tcp", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo/", func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := net.SplitHostPort(r.RemoteAddr); err != nil {
			log.Fatalf("remote address %q: %v", r.RemoteAddr, err)
		}
		w.Header().Set("X-Remote", r.RemoteAddr)
		fmt.Fprint(w, strings.TrimPrefix(r.URL.Path, "/echo/"))
	})
	mux.HandleFunc("/length", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/bytes/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/bytes/"))
		chunk := []byte(strings.Repeat("0123456789abcdef", 4096))
		for n > 0 {
			m := min(n, len(chunk))
			if _, err := w.Write(chunk[:m]); err != nil {
				return
			}
			n -= m
		}
	})
	fmt.Printf("listening on %s\n", listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
