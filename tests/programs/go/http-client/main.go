// http-client BASE-URL WORKERS REQUESTS: WORKERS goroutines make REQUESTS each, every one on a connection of its own
// for the first half and on kept-alive connections for the second; all bodies are checked.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: http-client BASE-URL WORKERS REQUESTS")
	}
	base := strings.TrimSuffix(os.Args[1], "/")
	workers, err1 := strconv.Atoi(os.Args[2])
	requests, err2 := strconv.Atoi(os.Args[3])
	if err1 != nil || err2 != nil {
		log.Fatal("WORKERS and REQUESTS are numbers")
	}
	fresh := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	kept := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	var done, failed atomic.Int64
	var group sync.WaitGroup
	for w := 0; w < workers; w++ {
		w := w
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < requests; i++ {
				client := fresh
				if i >= requests/2 {
					client = kept
				}
				if err := one(client, base, w, i); err != nil {
					log.Printf("worker %d request %d: %v", w, i, err)
					failed.Add(1)
					return
				}
				done.Add(1)
			}
		}()
	}
	group.Wait()
	fmt.Printf("%d requests answered, %d failed\n", done.Load(), failed.Load())
	if failed.Load() > 0 {
		os.Exit(1)
	}
}

func one(client *http.Client, base string, w, i int) error {
	var response *http.Response
	var err error
	var wanted string
	switch i % 3 {
	case 0:
		wanted = fmt.Sprintf("worker-%d-request-%d", w, i)
		response, err = client.Get(base + "/echo/" + wanted)
	case 1:
		wanted = strconv.Itoa(1000 * (i + 1))
		response, err = client.Post(base+"/length", "text/plain", strings.NewReader(strings.Repeat("x", 1000*(i+1))))
	default:
		wanted = strings.Repeat("0123456789abcdef", 2048)
		response, err = client.Get(base + "/bytes/" + strconv.Itoa(len(wanted)))
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != 200 || string(body) != wanted {
		return fmt.Errorf("status %d, %d bytes; wanted %d bytes", response.StatusCode, len(body), len(wanted))
	}
	return nil
}
