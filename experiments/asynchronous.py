"""The command `dim-jax asynchronous`, for who has not installed it."""

from dim_jax.commands.asynchronous import main

if __name__ == '__main__':
  main()
