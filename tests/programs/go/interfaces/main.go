// Command interfaces says every interface and address that Go finds.
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	all, err := net.Interfaces()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, i := range all {
		addresses, err := i.Addrs()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, a := range addresses {
			fmt.Println(i.Name, a.(*net.IPNet).IP)
		}
	}
}
