// Logs in with the DSN of the first argument; with "bind" as the second, it binds its login to the server's certificate
// where that is offered.
'use strict'
const { Client } = require('pg')

async function main () {
  const [dsn, bind] = process.argv.slice(2)
  const client = new Client({ connectionString: dsn, enableChannelBinding: bind === 'bind' })
  await client.connect()
  await client.end()
}

main().catch((err) => {
  console.error(err.message)
  process.exit(1)
})
