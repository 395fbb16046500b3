module example.com/hello

go 1.21

require github.com/go-chi/chi/v5 v5.1.0
