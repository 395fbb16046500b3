// A web server with one page and one number.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
)

func environment(name, otherwise string) string {
	if value, set := os.LookupEnv(name); set {
		return value
	}
	return otherwise
}

func main() {
	var visits atomic.Int64
	router := chi.NewRouter()
	router.Get("/", func(response http.ResponseWriter, request *http.Request) {
		count := visits.Add(1)
		log.Printf("visit %d from %s", count, request.Header.Get("X-Forwarded-For"))
		response.Header().Set("Content-Type", "application/json")
		json.NewEncoder(response).Encode(map[string]any{
			"greeting": environment("GREETING", "Hello"),
			"visits":   count,
			"release":  os.Getenv("HEROKU_RELEASE_VERSION"),
			"go":       runtime.Version(),
		})
	})
	server := &http.Server{
		Addr:              ":" + environment("PORT", "3000"),
		Handler:           router,
		ReadHeaderTimeout: 30 * time.Second,
	}

	// A dyno is told to stop by SIGTERM; what is under way is answered first.
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	go func() {
		<-stop.Done()
		server.Shutdown(context.Background())
	}()
	log.Printf("listening on %s", server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
