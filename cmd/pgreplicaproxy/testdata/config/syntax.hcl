cluster "main" {
  backend "db1" { address = "10.0.0.11:5432"
}
