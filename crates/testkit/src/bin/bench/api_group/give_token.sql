UPDATE oauth_authorization SET account_id = '00000000-0000-4000-8000-:ACCOUNT:' WHERE id = ':AUTHORIZATION:';
