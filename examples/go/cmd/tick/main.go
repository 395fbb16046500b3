// Prints a numbered line every second: a process beside the web server.
package main

import (
	"log"
	"time"
)

func main() {
	for count := 1; ; count++ {
		log.Printf("tick %d", count)
		time.Sleep(time.Second)
	}
}
