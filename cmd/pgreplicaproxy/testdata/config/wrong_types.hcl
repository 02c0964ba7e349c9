drain_timeout = ["30s"]
login_timeout = null

listen { address = 7432 }

tls { names = "db.example.com" }

cluster "main" {
  allow_authentication = ["scram-sha-256", ["md5"]]
  monitor {
    user            = { name = "x" }
    password        = env("TEST_MONITOR_PASSWORD")
    allow_as_client = "perhaps"
  }
  backend "db1" {
    address = "10.0.0.11:5432"
    weight  = 1.5
  }
}
