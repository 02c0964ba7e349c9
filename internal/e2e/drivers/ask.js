// Connects with the DSN of the first argument, runs the query of the second, which returns one value, and prints the
// value and the TLS version of the connection, a line each.
'use strict'
const { Client } = require('pg')

async function main () {
  const [dsn, sql] = process.argv.slice(2)
  const client = new Client({ connectionString: dsn })
  await client.connect()
  const { rows } = await client.query({ text: sql, rowMode: 'array' })
  console.log(`${rows[0][0]}\n${client.connection.stream.getProtocol()}`)
  await client.end()
}

main().catch((err) => {
  console.error(err.message)
  process.exit(1)
})
