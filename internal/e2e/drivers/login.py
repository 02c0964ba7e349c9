"""Logs in with the DSN of the first argument."""
import asyncio
import sys

import asyncpg


async def main():
    connection = await asyncpg.connect(sys.argv[1])
    await connection.close()


try:
    asyncio.run(main())
except Exception as error:  # whatever it is, the test wants its text
    sys.exit(f"{type(error).__name__}: {error}")
